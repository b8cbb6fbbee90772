// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm"
)

// present writes the two lines that every disk has.
func present(key, file string) string {
	return fmt.Sprintf("%s.present = \"TRUE\"\n%s.fileName = \"%s\"\n", key, key, file)
}

func TestWhichDevicesAreDisks(t *testing.T) {
	kind := func(deviceType, file string) string {
		return present("scsi0:1", file) + "scsi0:1.deviceType = \"" + deviceType + "\"\n"
	}
	for _, tt := range []struct {
		name, text string
		disks      []string
		warnings   []string
	}{
		{"plain", present("scsi0:1", "a.vmdk"), []string{"scsi0:1"}, nil},
		{"upper case", present("SCSI0:1", "A.VMDK"), []string{"scsi0:1"}, nil},
		{"dsk", present("ide1:1", "a.dsk"), []string{"ide1:1"}, nil},
		{"name of ESX 2.x", "scsi0:1.present = \"TRUE\"\nscsi0:1.name = \"v:a.vmdk\"\n", []string{"scsi0:1"}, nil},
		{"scsi-hardDisk", kind("scsi-hardDisk", "a.vmdk"), []string{"scsi0:1"}, nil},
		{"DISK", kind("DISK", "a.vmdk"), []string{"scsi0:1"}, nil},
		{"plainDisk", kind("plainDisk", "a.vmdk"), []string{"scsi0:1"}, nil},
		{"rawDisk with a descriptor", kind("rawDisk", "a.vmdk"), []string{"scsi0:1"}, []string{`scsi0:1: deviceType "rawDisk"`}},
		{"rawDisk on a device", kind("rawDisk", "/dev/sdb"), nil, []string{`scsi0:1: raw device "/dev/sdb"`}},
		{"passthru", kind("scsi-passthru", "/vmfs/devices/x.vmdk"), nil, []string{"scsi0:1: raw device"}},
		{"device that ends like a disk", kind("", "/vmfs/devices/disks/a.vmdk"), nil, []string{"scsi0:1: raw device"}},
		{"drive of Windows", kind("rawDisk", `\\.\PhysicalDrive0`), nil, []string{"scsi0:1: raw device"}},
		{"cdrom-image", kind("cdrom-image", "a.vmdk"), nil, nil},
		{"cdrom-raw", kind("cdrom-raw", "/dev/cdrom"), nil, nil},
		{"atapi-cdrom", kind("atapi-cdrom", "auto detect"), nil, nil},
		{"iso without a type", present("ide0:0", "X.ISO"), nil, nil},
		{"no backing", present("ide0:0", "emptyBackingString"), nil, nil},
		{"auto detect", present("ide0:0", "auto detect"), nil, nil},
		{"another file", present("ide0:0", "a.img"), nil, []string{`ide0:0: "a.img" ends neither`}},
		{"disk without a file", kind("disk", ""), nil, []string{"scsi0:1: is a disk (disk) but names no file"}},
		{"device without a file", "ide0:0.present = \"TRUE\"\n", nil, []string{"ide0:0: is present but names no file"}},
		{"not present", "scsi0:1.present = \"FALSE\"\nscsi0:1.fileName = \"a.vmdk\"\n", nil, nil},
		{"presence not told", "scsi0:1.fileName = \"a.vmdk\"\n", nil, []string{`scsi0:1: names the disk "a.vmdk" but is not marked present`}},
		{"presence of a CD-ROM not told", "scsi0:1.fileName = \"a.iso\"\n", nil, nil},
		{"controller of SCSI", present("scsi0:7", "a.vmdk"), nil, []string{"scsi0:7: no product has"}},
		{"beyond the bus", present("ide0:2", "a.vmdk") + present("scsi4:0", "a.vmdk"), nil, []string{"scsi4:0: no product", "ide0:2: no product"}},
		{"zeros in front", present("scsi00:01", "a.vmdk"), nil, nil},
		{"no device", present("floppy0", "a.vmdk") + present("sched.scsi0:0", "a.vmdk") + present("scsi0:", "a.vmdk") + present("scsi:0", "a.vmdk"), nil, nil},
		{
			"order", present("nvme0:0", "a.vmdk") + present("sata0:3", "b.vmdk") + present("scsi0:10", "c.vmdk") + present("ide1:0", "d.vmdk") + present("scsi0:2", "e.vmdk") + present("scsi1:0", "f.vmdk"),
			[]string{"scsi0:2", "scsi0:10", "scsi1:0", "ide1:0", "sata0:3", "nvme0:0"},
			nil,
		},
		{"controller not present", "scsi0.present = \"FALSE\"\n" + present("scsi0:1", "a.vmdk"), []string{"scsi0:1"}, []string{"scsi0:1: scsi0 is marked not present"}},
		{"double key", present("scsi0:1", "a.vmdk") + "scsi0:1.filename = \"b.vmdk\"\n", []string{"scsi0:1"}, []string{"scsi0:1: fileName appears 2 times"}},
		{"hostile warning", present("ide0:0", "a|0A|1B[2J"), nil, []string{`ide0:0: "a\n\x1b[2J" ends neither`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			refs, warnings, err := parse(t, tt.text).Disks()
			if err != nil {
				t.Fatal(err)
			}
			var keys []string
			for _, r := range refs {
				keys = append(keys, r.Key)
			}
			if !slices.Equal(keys, tt.disks) {
				t.Errorf("disks %q, want %q", keys, tt.disks)
			}
			checkPrefixes(t, warnings, tt.warnings)
		})
	}
}

func TestDiskErrors(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       error
	}{
		{"encrypted", present("scsi0:0", "a.vmdk") + "ENCRYPTION.keysafe = \"vmware:key/list\"\n", disk.ErrUnsupported},
		{"line about a disk cannot be read", "a = \"b\"\nscsi0:0.fileName = \"a.vmdk\n", disk.ErrCorrupt},
		{"presence cannot be read", "scsi0:0.present = \"yes\"\n", disk.ErrCorrupt},
		{"zero byte in the name", present("scsi0:0", "a|00.vmdk"), disk.ErrCorrupt},
		{"long name", present("scsi0:0", strings.Repeat("a", 4096)+".vmdk"), disk.ErrCorrupt},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if refs, _, err := parse(t, tt.text).Disks(); !errors.Is(err, tt.want) || refs != nil {
				t.Errorf("got %v, %v, want %v", refs, err, tt.want)
			}
		})
	}
}

func TestDiskDetails(t *testing.T) {
	text := `
scsi0.virtualDev = "VMXBusLogic"
scsi1.virtualDev = "vmxlsilogic"
scsi2.virtualDev = "PVSCSI"
scsi2.sharedBus = "physical"
scsi3.virtualDev = "newthing"
sata0.virtualDev = "ahci"
scsi0:0.mode = "UnDoable"
scsi0:0.redo = "a.vmdk.REDO"
scsi0:0.writeThrough = "TRUE"
scsi0:1.ctkEnabled = "true"
scsi0:1.filters = "VMW_vmwarelwd"
scsi1:0.mode = "append"
scsi1:0.sharing = "multi-writer"
scsi1:1.mode = "nonpersistent"
scsi1:2.mode = "independent-nonpersistent"
scsi3:0.mode = "sometimes"
` + present("scsi0:0", "a.vmdk") + present("scsi0:1", "b.vmdk") + present("scsi1:0", "c.vmdk") + present("scsi1:1", "d.vmdk") +
		present("scsi1:2", "e.vmdk") + present("scsi2:0", "f.vmdk") + present("scsi3:0", "g.vmdk") + present("sata0:0", "h.vmdk") + present("nvme1:2", "i.vmdk")
	refs, warnings, err := parse(t, text).Disks()
	if err != nil {
		t.Fatal(err)
	}
	checkPrefixes(t, warnings, []string{`scsi3:0: mode "sometimes"`, `scsi3:0: adapter "newthing"`})
	type detail struct {
		key, mode, written, adapter               string
		write, shared, ctk, independent, volatile bool
		filters, redo                             string
	}
	var got []detail
	for _, r := range refs {
		got = append(got, detail{r.Key, string(r.Mode), r.ModeWritten, r.Adapter, r.WriteThrough, r.Shared, r.CTK, r.Mode.Independent(), r.Mode.Volatile(), r.Filters, r.Redo})
		if !r.Raw {
			t.Errorf("%s: the adapter's name is of ESX 2.x, so its file is raw", r.Key)
		}
	}
	want := []detail{
		{key: "scsi0:0", mode: "undoable", written: "UnDoable", adapter: "buslogic", write: true, redo: "a.vmdk.REDO"},
		{key: "scsi0:1", mode: "persistent", adapter: "buslogic", ctk: true, filters: "VMW_vmwarelwd"},
		{key: "scsi1:0", mode: "append", written: "append", adapter: "lsilogic", shared: true},
		{key: "scsi1:1", mode: "nonpersistent", written: "nonpersistent", adapter: "lsilogic", volatile: true},
		{key: "scsi1:2", mode: "independent-nonpersistent", written: "independent-nonpersistent", adapter: "lsilogic", independent: true, volatile: true},
		{key: "scsi2:0", mode: "persistent", adapter: "pvscsi", shared: true},
		{key: "scsi3:0", written: "sometimes", adapter: "newthing"},
		{key: "sata0:0", mode: "persistent", adapter: "sata"},
		{key: "nvme1:2", mode: "persistent", adapter: "nvme"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestParseFileName(t *testing.T) {
	for _, tt := range []struct {
		in, form, volume, dir, base string
	}{
		{"a.vmdk", "relative", "", "", "a.vmdk"},
		{"./a.vmdk", "relative", "", ".", "a.vmdk"},
		{"sub/dir/a.vmdk", "relative", "", "sub/dir", "a.vmdk"},
		{`sub\a.vmdk`, "relative", "", "sub", "a.vmdk"},
		{"../b/a.vmdk", "relative", "", "../b", "a.vmdk"},
		{"/data/vm/a.vmdk", "absolute", "", "data/vm", "a.vmdk"},
		{"/a.vmdk", "absolute", "", "", "a.vmdk"},
		{"/vmfs/volumes/ds 1/web/a.vmdk", "absolute", "ds 1", "web", "a.vmdk"},
		{"/vmfs/volumes/ds/a.vmdk", "absolute", "ds", "", "a.vmdk"},
		{"/vmfs/vmhba0:0:0:1/a.vmdk", "absolute", "vmhba0:0:0:1", "", "a.vmdk"},
		{"/vmfs/devices/disks/a.vmdk", "absolute", "", "vmfs/devices/disks", "a.vmdk"},
		{"/vmfs/volumes//a.vmdk", "absolute", "", "vmfs/volumes", "a.vmdk"},
		{"vmhba0:0:0:1:a.vmdk", "volume", "vmhba0:0:0:1", "", "a.vmdk"},
		{"local:a.vmdk", "volume", "local", "", "a.vmdk"},
		{`C:\vm\web\a.vmdk`, "windows", "C:", "vm/web", "a.vmdk"},
		{"d:/a.vmdk", "windows", "d:", "", "a.vmdk"},
		{`\\server\share\a.vmdk`, "windows", "", "server/share", "a.vmdk"},
	} {
		n, err := vm.ParseFileName(tt.in)
		got := []string{n.Written, n.Form.String(), n.Volume, n.Dir, n.Base}
		if want := []string{tt.in, tt.form, tt.volume, tt.dir, tt.base}; err != nil || !slices.Equal(got, want) {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	for _, bad := range []string{"", "/", "a/", ".", "..", "a/..", `a\`, "vol:", "v:..", `C:\`, "a\x00b", strings.Repeat("a", 4097)} {
		if n, err := vm.ParseFileName(bad); !errors.Is(err, disk.ErrCorrupt) {
			t.Errorf("%.20q: %+v, %v", bad, n, err)
		}
	}
	if got := vm.NameForm(0).String(); got != "invalid" {
		t.Error(got)
	}
}
