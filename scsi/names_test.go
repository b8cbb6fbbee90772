// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/scsi"
)

func TestParseName(t *testing.T) {
	for text, want := range map[string]struct {
		name scsi.Name
		text string
	}{
		"vmhba1:2:0":                             {scsi.Name{Adapter: 1, Target: 2}, "vmhba1:2:0"},
		"vmhba1:2:0:3":                           {scsi.Name{Adapter: 1, Target: 2, Partition: 3}, "vmhba1:2:0:3"},
		"/vmfs/vmhba1:2:0:3":                     {scsi.Name{Adapter: 1, Target: 2, Partition: 3}, "vmhba1:2:0:3"},
		"vmhba0:0:5:0:web01.vmdk":                {scsi.Name{LUN: 5, File: "web01.vmdk"}, "vmhba0:0:5:0:web01.vmdk"},
		"vmhba0:0:5:1:a/b:c.vmdk":                {scsi.Name{LUN: 5, Partition: 1, File: "a/b:c.vmdk"}, "vmhba0:0:5:1:a/b:c.vmdk"},
		"vmhba33:C1:T2:L255":                     {scsi.Name{Adapter: 33, Channel: 1, Target: 2, LUN: 255}, "vmhba33:C1:T2:L255"},
		"/vmfs/devices/disks/vmhba33:C0:T2:L1:1": {scsi.Name{Adapter: 33, Target: 2, LUN: 1, Partition: 1}, "vmhba33:2:1:1"},
	} {
		got, err := scsi.ParseName(text)
		if err != nil || got != want.name || got.String() != want.text {
			t.Errorf("%s: %+v, %v, %v", text, got, got, err)
		}
		if again, err := scsi.ParseName(got.String()); err != nil || again != got {
			t.Errorf("%s: again %+v, %v", text, again, err)
		}
		if l := got.LUNName(); l.Partition != 0 || l.File != "" || l.Target != got.Target {
			t.Errorf("%s: LUN %v", text, l)
		}
	}
	for _, text := range []string{
		"", "vmhba", "vmhba1", "vmhba1:2", "vmhba1:2:", "vmhba1:2:0:", "vmhba1:2:0:x", "xvmhba1:2:0", "vmhba-1:2:0",
		"vmhba1:99999999999999999999:0", "vmhba1:0:99999999999999999999999", "vmhba1:2:0:3:",
	} {
		if n, err := scsi.ParseName(text); !errors.Is(err, scsi.ErrNoDevice) {
			t.Errorf("%q: %v, %v", text, n, err)
		}
	}
}

func TestParseAddress(t *testing.T) {
	a, err := scsi.ParseAddress("2:0:1:49409")
	if want := (scsi.Address{Host: 2, Target: 1, LUN: 49409}); err != nil || a != want || a.String() != "2:0:1:49409" {
		t.Errorf("%v, %v", a, err)
	}
	for _, text := range []string{"", "2:0:1", "2:0:1:3:4", "a:0:0:0", "-1:0:0:0", "1:0:0:-3", "1:0:0:x"} {
		if a, err := scsi.ParseAddress(text); !errors.Is(err, scsi.ErrNoDevice) {
			t.Errorf("%q: %v, %v", text, a, err)
		}
	}
}

func TestParseID(t *testing.T) {
	const naa6 = "6001405a0102030405060708090a0b0c"
	for text, want := range map[string]scsi.ID{
		"naa." + naa6:                                 "naa." + naa6,
		"NAA." + strings.ToUpper(naa6):                "naa." + naa6,
		"wwn-0x" + naa6:                               "naa." + naa6,
		"scsi-3" + naa6:                               "naa." + naa6,
		"/dev/disk/by-id/wwn-0x" + naa6:               "naa." + naa6,
		"0x5000c50012345678":                          "naa.5000c50012345678",
		"eui.0011223344556677":                        "eui.0011223344556677",
		"t10.ATA     QEMU HARDDISK":                   "t10.ATA     QEMU HARDDISK",
		"/dev/disk/by-id/scsi-2" + "0011223344556677": "eui.0011223344556677",
	} {
		if got, err := scsi.ParseID(text); err != nil || got != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "naa.", "naa.zz", "naa.6001", "naa.5000c500123456780000000000000000", "naa.7001405a0102030405060708090a0b0c", "eui.00",
		"t10.", "t10.  ", "web01", "/dev/sdb", "vmhba1:0:0",
	} {
		if id, err := scsi.ParseID(text); err == nil {
			t.Errorf("%q: %s", text, id)
		}
	}
}

// TestIsESX compares ids as ESX keeps them with those of LUNs. The first was seen in a
// mapping of a disk of QEMU.
func TestIsESX(t *testing.T) {
	qemu := scsi.Identity{Serial: "QM00015"}
	lun := scsi.Identity{IDs: []scsi.ID{"naa.6001405a0102030405060708090a0b0c"}, Serial: "5a0102"}
	lunESX := "\x60\x01\x40\x5a\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0cdisk  "
	for _, c := range []struct {
		of    scsi.Identity
		model string
		esx   string
		want  bool
	}{
		{qemu, "QEMU HARDDISK", "QM00015             QEMU H", true},
		{qemu, "QEMU HARDDISK", "QM00016             QEMU H", false},
		{qemu, "OTHER", "QM00015             QEMU H", false},
		{qemu, "QEMU HARDDISK", "                    QEMU H", false},
		{qemu, "QEMU HARDDISK", "QEMU H", false},
		{scsi.Identity{}, "QEMU HARDDISK", "QM00015             QEMU H", false},
		{scsi.Identity{Serial: "01234567890123456789ABC"}, "x", "01234567890123456789x     ", true},
		{lun, "disk", lunESX, true},
		{lun, "disk", "\x61" + lunESX[1:], false},
		{lun, "disk", "", false},
	} {
		if got := c.of.IsESX(c.model, []byte(c.esx)); got != c.want {
			t.Errorf("%+v, %s: %q is %v", c.of, c.model, c.esx, got)
		}
	}
	for _, i := range []scsi.Identity{qemu, lun} {
		kind, esx := i.ESX("disk model")
		if kind == 0 || !i.IsESX("disk model", esx) {
			t.Errorf("%+v does not know itself by %q", i, esx)
		}
	}
	if kind, esx := (&scsi.Identity{}).ESX("x"); kind != 0 || esx != nil {
		t.Errorf("a LUN without a name has %q", esx)
	}
}

var luns = []scsi.LUN{
	{Address: scsi.Address{Host: 1, Target: 2}, Inquiry: scsi.Inquiry{Vendor: "V", Model: "A"}, ID: "naa.5000000000000001", Identity: scsi.Identity{IDs: []scsi.ID{"naa.5000000000000001"}}, Node: "/dev/sdb", Generic: "/dev/sg1", State: "offline"},
	{Address: scsi.Address{Host: 3, Target: 2}, ID: "naa.5000000000000001", Identity: scsi.Identity{IDs: []scsi.ID{"naa.5000000000000001", "t10.V a"}}, Node: "/dev/sdc", Generic: "/dev/sg2", State: "running"},
	{Address: scsi.Address{Host: 3, Target: 4, LUN: 9}, ID: "naa.5000000000000002", Identity: scsi.Identity{IDs: []scsi.ID{"naa.5000000000000002"}}, Node: "/dev/sdd", Generic: "/dev/sg3", State: "running"},
	{Address: scsi.Address{Host: 4}, Inquiry: scsi.Inquiry{Type: scsi.TypeTape}, Node: "/dev/nst0", Generic: "/dev/sg4", State: "running"},
	{Address: scsi.Address{Host: 5}, Node: "/dev/sde", State: "running"},
}

func TestFind(t *testing.T) {
	table, err := scsi.ReadTable(strings.NewReader("# ids\n\nvmhba1:2:0 naa.5000000000000002 # moved\nvmhba2:C1:T0:L0\tt10.V a\nvmhba7:0:0 naa.5000000000000009\n"))
	must(t, err)
	for _, c := range []struct {
		text string
		t    *scsi.Table
		node string
		want error
	}{
		{"vmhba1:2:0", table, "/dev/sdd", nil},
		{"vmhba1:2:0:1:x", table, "/dev/sdd", nil},
		{"vmhba1:2:0", nil, "/dev/sdb", nil},
		{"vmhba2:C1:T0:L0", table, "/dev/sdc", nil},
		{"vmhba3:4:9", table, "", scsi.ErrNoDevice}, // not in the table
		{"vmhba3:4:9", nil, "/dev/sdd", nil},
		{"vmhba7:0:0", table, "", scsi.ErrNoDevice}, // in it, and gone
		{"naa.5000000000000001", table, "/dev/sdc", nil},
		{"wwn-0x5000000000000002", nil, "/dev/sdd", nil},
		{"3:0:2:0", nil, "/dev/sdc", nil},
		{"1:0:2:0", nil, "/dev/sdb", nil}, // offline, but that is what was asked for
		{"/dev/sde", nil, "/dev/sde", nil},
		{"/dev/sg4", nil, "/dev/nst0", nil},
		{"/dev/sdz", nil, "", scsi.ErrNoDevice},
		{"", nil, "", scsi.ErrNoDevice},
	} {
		l, err := scsi.Find(c.text, luns, c.t)
		switch {
		case !errors.Is(err, c.want):
			t.Errorf("%q: %v", c.text, err)
		case err == nil && l.Node != c.node:
			t.Errorf("%q is %s, want %s", c.text, l.Node, c.node)
		}
	}
	two := append(luns[:2:2], luns[4], luns[4])
	if _, err := scsi.Find("/dev/sde", two, nil); !errors.Is(err, scsi.ErrAmbiguous) {
		t.Errorf("two without an id: %v", err)
	}
}

// TestTable keeps names where LUNs are presented elsewhere.
func TestTable(t *testing.T) {
	table := &scsi.Table{}
	if n := table.Learn(luns); n != 2 {
		t.Errorf("%d added", n)
	}
	moved := append([]scsi.LUN(nil), luns...)
	moved[0].Address, moved[1].Address, moved[2].Address = scsi.Address{Host: 8}, scsi.Address{Host: 9}, luns[0].Address
	extra := luns[2]
	extra.Address, extra.ID = luns[0].Address, "naa.5000000000000003" // the address that a name stands for already
	moved = append(moved, extra)
	if n := table.Learn(moved); n != 1 {
		t.Errorf("%d added", n)
	}
	var text strings.Builder
	if _, err := table.WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	want := "vmhba1:2:0       naa.5000000000000001  # V A\nvmhba1:2:1       naa.5000000000000003\nvmhba3:4:9       naa.5000000000000002\n"
	if got := text.String(); !strings.HasSuffix(got, want) {
		t.Errorf("the table is\n%s", got)
	}
	again, err := scsi.ReadTable(strings.NewReader(text.String()))
	must(t, err)
	l, err := scsi.Find("vmhba1:2:0", moved, again)
	must(t, err)
	if l.ID != "naa.5000000000000001" || l.State != "running" {
		t.Errorf("it is %+v", l)
	}
	again.Name(moved)
	if len(moved[2].Names) != 1 || moved[2].Names[0].String() != "vmhba3:4:9" || moved[3].Names != nil {
		t.Errorf("names %v", moved[2].Names)
	}
	for text, want := range map[string]string{
		"vmhba1:2:0":                        "line 1: write a name and an id",
		"x naa.5000000000000001":            "line 1",
		"\nvmhba1:2:0 serial":               "line 2",
		"vmhba1:2:0:1 naa.5000000000000001": "without a partition",
		"vmhba1:2:0 naa.5000000000000001\nvmhba1:C0:T2:L0 naa.5000000000000002": "line 2: vmhba1:2:0 is there twice",
		strings.Repeat("x", 5000):   "too long",
		strings.Repeat("\n", 70000): "more than 65536 lines",
	} {
		if _, err := scsi.ReadTable(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}
