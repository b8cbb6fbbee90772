// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeSysfs makes a tree as Linux has it, with two paths to a disk, a partition, what
// multipath makes of them, and a tape. Names with -> are links.
func fakeSysfs(t *testing.T) Sysfs {
	t.Helper()
	root := t.TempDir()
	page83 := "\x00\x83\x00\x14\x01\x03\x00\x10\x60\x01\x40\x5a\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c"
	files := map[string]string{}
	for path, disk := range map[string]string{"2:0:1:0": "sdb", "3:0:1:7": "sdc"} {
		dir := "devices/" + path + "/"
		files["class/scsi_device/"+path+"/device->"] = "../../../devices/" + path
		for name, text := range map[string]string{
			"type": "0\n", "vendor": "LIO-ORG \n", "model": "disk\x1b[2J          \n", "rev": "4.0 \n", "state": "running\n",
			"vpd_pg80": "\x00\x80\x00\x085a010203", "vpd_pg83": page83, "scsi_generic/sg" + path[:1] + "/dev": "", "scsi_disk/" + path + "/thin_provisioning": "1\n",
		} {
			files[dir+name] = text
		}
		block := dir + "block/" + disk
		files[block+"/size"], files[block+"/queue/logical_block_size"] = "2048\n", "4096\n"
		files[block+"/device->"] = "../.."
		files[block+"/"+disk+"1/partition"], files[block+"/"+disk+"1/start"], files[block+"/"+disk+"1/size"] = "1\n", "64\n", "1000\n"
		files["devices/dm/dm-0/slaves/"+disk+"->"] = "../../../" + path + "/block/" + disk
		files["devices/dm/dm-3/slaves/"+disk+"->"] = "../../../" + path + "/block/" + disk
	}
	tape := "devices/4:0:0:0/"
	files["class/scsi_device/4:0:0:0/device->"] = "../../../devices/4:0:0:0"
	files[tape+"type"], files[tape+"scsi_tape/nst0/x"], files[tape+"scsi_tape/nst0a/x"], files[tape+"scsi_tape/st0/x"] = "1\n", "", "", ""
	files[tape+"scsi_generic/sg9/x"], files[tape+"wwid"] = "", "naa.5000c50012345678\n"
	files["class/scsi_device/other/x"] = ""
	files["class/scsi_host/host2/proc_name"] = "tcm_loopback\n"
	files["class/scsi_host/host2/scan"] = ""
	files["devices/dm/dm-0/dm/uuid"], files["devices/dm/dm-0/size"] = "mpath-3600\n", "2048\n"
	files["devices/dm/dm-1/dm/uuid"] = "LVM-abc\n"
	files["devices/dm/dm-2/dm/uuid"], files["devices/dm/dm-2/slaves/dm-2->"] = "mpath-3601\n", "../../dm-2"
	files["devices/dm/dm-3/dm/uuid"] = "part1-mpath-3600\n"
	files["devices/virtual/loop0/size"] = "8\n"
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if link, ok := strings.CutSuffix(path, "->"); ok {
			err = os.Symlink(text, link)
		} else {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return Sysfs{Root: root, Dev: "/d"}
}

func TestLUNs(t *testing.T) {
	s := fakeSysfs(t)
	all, err := s.LUNs()
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 3 {
		t.Fatalf("found\n%s", b)
	}
	disk, other, tape := all[0], all[1], all[2]
	const id = "naa.6001405a0102030405060708090a0b0c"
	switch {
	case disk.Address.String() != "2:0:1:0" || disk.Node != "/d/sdb" || disk.Generic != "/d/sg2" || disk.CommandNode() != "/d/sdb":
	case disk.ID != id || disk.Serial != "5a010203" || disk.Vendor != "LIO-ORG" || disk.Model != "disk?[2J" || disk.Revision != "4.0":
	case disk.SizeBytes != 1<<20 || disk.BlockBytes != 4096 || !disk.Thin || disk.State != "running" || disk.Driver != "tcm_loopback" || disk.Paths != 2:
	case other.Address.LUN != 7 || other.ID != id || other.Driver != "":
	case tape.Type != TypeTape || tape.Node != "/d/nst0" || tape.CommandNode() != "/d/sg9" || tape.ID != "naa.5000c50012345678" || tape.Paths != 1:
	default:
		return
	}
	t.Errorf("found\n%s", b)
}

func TestPartition(t *testing.T) {
	s := fakeSysfs(t)
	all, err := s.LUNs()
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]string{0: "/d/sdb", 1: "/d/sdb1", 2: ""} {
		got, err := s.Partition(&all[0], n)
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrNoDevice) {
			t.Errorf("%d: %q, %v", n, got, err)
		}
	}
	if _, err := s.Partition(&all[2], 0); !errors.Is(err, ErrNoDevice) {
		t.Errorf("of a tape: %v", err)
	}
}

func TestNoSCSI(t *testing.T) {
	s := Sysfs{Root: t.TempDir()}
	if all, err := s.LUNs(); err != nil || all != nil {
		t.Errorf("%v, %v", all, err)
	}
	if all, err := s.Hosts(); err != nil || all != nil {
		t.Errorf("%v, %v", all, err)
	}
}

func TestPlace(t *testing.T) {
	s := fakeSysfs(t)
	for dir, want := range map[string]Place{
		"devices/2:0:1:0/block/sdb":      {},
		"devices/2:0:1:0/block/sdb/sdb1": {OffsetBytes: 64 * 512},
		"devices/dm/dm-0":                {},
	} {
		p, err := s.placeOf(filepath.Join(s.Root, dir), maxStack)
		if err != nil || p.OffsetBytes != want.OffsetBytes || p.LUN.ID != "naa.6001405a0102030405060708090a0b0c" {
			t.Errorf("%s: %+v, %v", dir, p, err)
		}
	}
	for _, dir := range []string{"devices/dm/dm-1", "devices/dm/dm-2", "devices/dm/dm-3", "devices/virtual/loop0", "nowhere"} {
		if p, err := s.placeOf(filepath.Join(s.Root, dir), maxStack); !errors.Is(err, ErrNoDevice) {
			t.Errorf("%s: %+v, %v", dir, p, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Place(file); err == nil {
		t.Error("a file is on a LUN")
	}
}

func TestRescan(t *testing.T) {
	s := fakeSysfs(t)
	hosts, err := s.Hosts()
	if err != nil || len(hosts) != 1 || hosts[0] != 2 {
		t.Fatalf("%v, %v", hosts, err)
	}
	if err := s.Rescan(2); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(s.Root, "class/scsi_host/host2/scan")); err != nil || string(b) != "- - -\n" {
		t.Errorf("%q, %v", b, err)
	}
	if err := s.Rescan(5); !errors.Is(err, ErrNoDevice) {
		t.Errorf("a host that is not there: %v", err)
	}
}
