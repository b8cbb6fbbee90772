// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/redo"
	"github.com/vmstream/vmstream/scsi"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
	"github.com/vmstream/vmstream/vmfs"
)

// lunSize is the size of the LUNs that are mapped.
const lunSize = 3 << 20

// mappedVM makes a volume with a VM that has mappings in both modes, and one of ESX 2.x,
// and an image for each LUN.
func mappedVM(t *testing.T) (devices []vmfs.WriteDevice, luns []scsi.LUN, images [][]byte) {
	t.Helper()
	devices = newVolume(t, vmfs.VMFS5, 300<<20)
	w, err := vmfs.OpenWriter(devices, vmfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, b []byte) {
		t.Helper()
		x, err := w.Create(name, vmfs.CreateOptions{SizeBytes: int64(len(b))})
		if err == nil {
			_, err = x.WriteAt(b, 0)
		}
		if err == nil {
			err = x.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Mkdir("web01", 0o755); err != nil {
		t.Fatal(err)
	}
	vmx := "displayName = \"web01\"\nscsi0.present = \"TRUE\"\n"
	for i, name := range []string{"virtual.vmdk", "physical.vmdk", "esx2.vmdk"} {
		b := bytes.Repeat([]byte{byte(i + 1)}, lunSize)
		clear(b[1<<20 : 2<<20])
		image := filepath.Join(t.TempDir(), "lun")
		if err := os.WriteFile(image, b, 0o600); err != nil {
			t.Fatal(err)
		}
		l := scsi.LUN{Node: image, Inquiry: scsi.Inquiry{Vendor: "LIO-ORG", Model: "disk"}, State: "running"}
		l.Serial = "serial-" + name
		if i == 0 {
			l.IDs = []scsi.ID{"naa.6001405a0102030405060708090a0b0c"}
		}
		l.ID = l.Best()
		luns, images = append(luns, l), append(images, b)
		id, err := DiskIDOf(&l)
		if err != nil {
			t.Fatal(err)
		}
		mapping, text, err := vmdk.MappingDescriptor(vmdk.CreateSpec{Name: name, SizeBytes: lunSize}, i == 1)
		if err != nil {
			t.Fatal(err)
		}
		if i == 2 {
			mapping = name
		} else {
			put("web01/"+name, text)
		}
		if err := w.MapDevice("web01/"+mapping, id, lunSize); err != nil {
			t.Fatal(err)
		}
		key := "scsi0:" + string(rune('0'+i))
		vmx += key + ".present = \"TRUE\"\n" + key + ".fileName = \"" + name + "\"\n"
	}
	put("web01/web01.vmx", []byte(vmx))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return devices, luns, images
}

// mappedSource opens the VM of mappedVM; said are its warnings.
func mappedSource(t *testing.T, tree *vmfs.Tree, m *MappedLUNs) (s *Source, said []string, err error) {
	t.Helper()
	tree.MapDevices(m.Open)
	s, err = OpenSource(t.Context(), "/vmfs/volumes/ds/web01/web01.vmx", SourceOptions{Tree: tree, Warn: func(w string) { said = append(said, w) }})
	return s, said, err
}

// TestMapped backs mappings up, and restores them as disks of files.
func TestMapped(t *testing.T) {
	devices, luns, images := mappedVM(t)
	known := luns[0]
	known.Address.Host, known.State = 9, "offline" // another path, which does not work
	known.Node = "/nowhere"
	m := &MappedLUNs{
		Named: map[string]string{"physical.vmdk": luns[1].Node},
		LUNs:  func() ([]scsi.LUN, error) { return []scsi.LUN{known, luns[0], luns[2]}, nil },
	}
	s, said, err := mappedSource(t, treeOf(t, devices), m)
	if err != nil {
		t.Fatal(err)
	}
	if len(said) != 1 || !strings.Contains(said[0], "disk scsi0:1 is a raw device mapping in physical mode: no snapshot protects it") {
		t.Errorf("warned of %q", said)
	}
	want := []stream.MappingRecord{
		{Mode: "virtual", Vendor: "LIO-ORG", Model: "disk", IDType: 2, ID: "6001405a0102030405060708090a0b0c6469736b2020"},
		{Mode: "physical", Vendor: "LIO-ORG", Model: "disk", IDType: 1, ID: "73657269616c2d706879736963616c2e766d646b6469736b2020"},
		{Mode: "virtual", Vendor: "LIO-ORG", Model: "disk", IDType: 1, ID: "73657269616c2d657378322e766d646b202020206469736b2020"},
	}
	for i, d := range s.Disks {
		if d.Record.Mapping == nil || *d.Record.Mapping != want[i] {
			t.Errorf("disk %d: %+v", i, d.Record.Mapping)
		}
	}
	var b bytes.Buffer
	if _, err := Backup(context.Background(), &b, s, streamOptions("none")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	dir, warned := t.TempDir(), 0
	done, err := Restore(t.Context(), &b, RestoreOptions{Dir: dir, Format: vmdk.FormatRaw, Warn: func(w string) {
		if strings.Contains(w, "was a raw device mapping") {
			warned++
		}
	}})
	if err != nil || warned != 3 {
		t.Fatalf("%v, %d warnings", err, warned)
	}
	for i, d := range done.Disks {
		if got, err := os.ReadFile(d.Path); err != nil || !bytes.Equal(got, images[i]) {
			t.Errorf("%s: %d bytes, which differ: %v", d.Path, len(got), err)
		}
	}
}

// TestMappedRedo reads a redo log over a mapping, on a volume and beside a copy of the
// descriptor.
func TestMappedRedo(t *testing.T) {
	devices, luns, images := mappedVM(t)
	tree := treeOf(t, devices)
	d, err := tree.Open("/vmfs/volumes/ds/web01/virtual.vmdk")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(io.NewSectionReader(d, 0, d.Size()))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, b := range map[string][]byte{"virtual.vmdk": text, "virtual-rdm.vmdk": []byte("an id, or whatever was copied")} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	base := filepath.Join(dir, "virtual.vmdk")
	if _, err := vmdk.Open(base, vmdk.Options{}); !errors.Is(err, disk.ErrUnsupported) || !strings.Contains(err.Error(), "--rdm virtual.vmdk=DEVICE") {
		t.Errorf("without its LUN: %v", err)
	}
	m := &MappedLUNs{Named: map[string]string{"virtual.vmdk": luns[0].Node}}
	if got := contentOn(t, m.Tree(), base, vmdk.SourceAuto); !bytes.Equal(got, images[0]) {
		t.Error("it reads something else")
	}
	added, err := redo.Add(t.Context(), base, redo.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(images[0])
	copy(want[128<<10:], "written to the redo log")
	writeGrain(t, filepath.Join(dir, "virtual-000001-delta.vmdk"), want[128<<10:192<<10], 128<<10, images[0])
	if got := contentOn(t, m.Tree(), added.Path, vmdk.SourceAuto); !bytes.Equal(got, want) {
		t.Error("with its redo log it reads something else")
	}
}

// writeGrain writes into the extent of a redo log.
func writeGrain(t *testing.T, path string, p []byte, off int64, below []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	u, err := vmdk.OpenUpdate(t.Context(), f, vmdk.UpdateSpec{Name: path, FileBytes: st.Size(), Fill: bytes.NewReader(below)})
	if err == nil {
		if _, err = u.WriteAt(p, off); err == nil {
			err = u.Close()
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestMappedNot has mappings whose LUNs cannot be told be refused.
func TestMappedNot(t *testing.T) {
	devices, luns, _ := mappedVM(t)
	twin := luns[1]
	twin.ID, twin.Node = "naa.5000000000000001", "/nowhere"
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, make([]byte, lunSize-512), 0o600); err != nil {
		t.Fatal(err)
	}
	named := map[string]string{"virtual.vmdk": luns[0].Node, "esx2.vmdk": luns[2].Node}
	for name, c := range map[string]struct {
		m    *MappedLUNs
		want error
	}{
		"not there":  {&MappedLUNs{Named: named, LUNs: func() ([]scsi.LUN, error) { return luns[:1], nil }}, scsi.ErrNoDevice},
		"no LUNs":    {&MappedLUNs{Named: named}, scsi.ErrNoDevice},
		"two of it":  {&MappedLUNs{Named: named, LUNs: func() ([]scsi.LUN, error) { return append(slices.Clone(luns), twin), nil }}, scsi.ErrAmbiguous},
		"no listing": {&MappedLUNs{Named: named, LUNs: func() ([]scsi.LUN, error) { return nil, io.ErrUnexpectedEOF }}, io.ErrUnexpectedEOF},
		"too short":  {&MappedLUNs{Named: map[string]string{"virtual.vmdk": luns[0].Node, "esx2.vmdk": luns[2].Node, "physical-rdmp.vmdk": short}}, disk.ErrMismatch},
	} {
		s, _, err := mappedSource(t, treeOf(t, devices), c.m)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			_ = s.Close()
		} else if !strings.Contains(err.Error(), path.Base("physical-rdmp.vmdk")) {
			t.Errorf("%s: it does not say which: %v", name, err)
		}
	}
	if _, err := DiskIDOf(&scsi.LUN{}); !errors.Is(err, ErrNotMapped) {
		t.Errorf("a LUN without an id: %v", err)
	}
}
