// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vmdk"
	"github.com/vmstream/vmstream/vmfs"
)

// newVolume makes an empty volume and returns its device.
func newVolume(t *testing.T, generation vmfs.Generation, sizeBytes int64) []vmfs.WriteDevice {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "volume.img"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(sizeBytes); err != nil {
		t.Fatal(err)
	}
	devices := []vmfs.WriteDevice{{Name: f.Name(), RW: f, SizeBytes: sizeBytes}}
	if err := vmfs.Format(t.Context(), devices, vmfs.FormatOptions{Generation: generation, BlockBytes: 1 << 20, Label: "ds", Images: true}); err != nil {
		t.Fatal(err)
	}
	return devices
}

// toVolume restores streams to a volume.
func toVolume(t *testing.T, devices []vmfs.WriteDevice, p Provisioning, format vmdk.Format, ins ...io.Reader) (*Restored, error) {
	t.Helper()
	w, err := vmfs.OpenWriter(devices, vmfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	done, err := RestoreChain(t.Context(), ins, RestoreOptions{Volume: &Volume{W: w, Dir: ".", Provisioning: p}, Format: format})
	if closeErr := w.Close(); closeErr != nil && err == nil {
		t.Fatal(closeErr)
	}
	return done, err
}

// treeOf opens what is on a volume, and fails if a check finds something that is not one
// of the kinds that may be.
func treeOf(t *testing.T, devices []vmfs.WriteDevice, may ...vmfs.ProblemKind) *vmfs.Tree {
	t.Helper()
	f, err := vmfs.Open([]vmfs.Device{{Name: devices[0].Name, R: devices[0].RW, SizeBytes: devices[0].SizeBytes}}, vmfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Check(t.Context(), func(p vmfs.Problem) {
		if !slices.Contains(may, p.Kind) {
			t.Error(p)
		}
	}); err != nil {
		t.Fatal(err)
	}
	tree, err := vmfs.NewTree([]*vmfs.FS{f}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// contentOn reads a disk of a tree.
func contentOn(t *testing.T, tree disk.Tree, path string, format vmdk.SourceFormat) []byte {
	t.Helper()
	im, err := vmdk.Open(path, vmdk.Options{Tree: tree, Format: format})
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	b, err := io.ReadAll(io.NewSectionReader(im, 0, im.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// volumeVM makes a VM whose disk is sparse, and returns its stream and the disk's content.
func volumeVM(t *testing.T) (content, b []byte) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "web01")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"web01.vmx":   "displayName = \"web01\"\nscsi0.present = \"TRUE\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"old name.vmdk\"\nnvram = \"web01.nvram\"\n",
		"web01.nvram": strings.Repeat("nvram", 3000), "vmware.log": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	content = make([]byte, 5<<20)
	copy(content[1<<20:], bytes.Repeat([]byte("data"), 1<<18))
	copy(content[len(content)-5:], "end")
	w, err := vmdk.Create(vmdk.CreateSpec{Format: vmdk.FormatSparse, Dir: dir, Name: "old name.vmdk", SizeBytes: int64(len(content))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return content, backup(t, filepath.Join(dir, "web01.vmx"), streamOptions("none"))
}

// TestRestoreVolume restores a VM to a volume, and finds it there as a host would.
func TestRestoreVolume(t *testing.T) {
	content, b := volumeVM(t)
	for _, generation := range []vmfs.Generation{vmfs.VMFS3, vmfs.VMFS5} {
		for p, taken := range map[Provisioning]uint64{ProvisionSame: 5, ProvisionThin: 2, ProvisionZeroed: 5, ProvisionEagerZeroed: 5} {
			devices := newVolume(t, generation, 300<<20)
			done, err := toVolume(t, devices, p, "", bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			if len(done.Disks) != 1 || done.Disks[0].Path != "web01/old name.vmdk" || len(done.Paths) != 4 || done.Paths[3] != "web01/web01.vmx" {
				t.Errorf("restored: %+v, %q", done.Disks, done.Paths)
			}
			tree := treeOf(t, devices)
			m, err := vm.Load("/vmfs/volumes/ds/web01/web01.vmx", vm.LoadOptions{Tree: tree})
			if err != nil {
				t.Fatal(err)
			}
			if len(m.Disks) != 1 || len(m.Files) != 3 || len(m.InUse) > 0 || !bytes.Equal(contentOn(t, tree, m.Disks[0].Path, ""), content) {
				t.Errorf("%v %s: the VM is not what it was: %+v", generation, p, m)
			}
			st, err := tree.Stat("/vmfs/volumes/ds/web01/old name-flat.vmdk")
			if err != nil {
				t.Fatal(err)
			}
			if s := st.Sys().(*vmfs.Stat); s.Units != taken || (s.TBZ > 0) != (p == ProvisionSame || p == ProvisionZeroed) {
				t.Errorf("%v %s: %d blocks, %d to be zeroed", generation, p, s.Units, s.TBZ)
			}
			if st, err = tree.Stat("/vmfs/volumes/ds/web01/web01.nvram"); err != nil || st.Mode().Perm() != 0o640 || st.Size() != 15000 {
				t.Errorf("nvram: %v, %v", st, err)
			}
			if _, err := toVolume(t, devices, p, "", bytes.NewReader(b)); !errors.Is(err, fs.ErrExist) {
				t.Errorf("again: %v", err)
			}
		}
	}
}

// TestRestoreVolumeChain restores increments side by side and one behind the other, as a
// raw disk and with a descriptor.
func TestRestoreVolumeChain(t *testing.T) {
	points := threePoints()
	all := chainOf(t, "none", points)
	for _, format := range []vmdk.Format{FormatSame, vmdk.FormatVMFS} {
		for _, series := range []bool{false, true} {
			var ins []io.Reader
			for _, b := range all {
				ins = append(ins, bytes.NewReader(b))
			}
			if series {
				ins = []io.Reader{io.MultiReader(ins...)}
			}
			devices := newVolume(t, vmfs.VMFS5, 300<<20)
			done, err := toVolume(t, devices, ProvisionThin, format, ins...)
			if err != nil {
				t.Fatal(err)
			}
			source := vmdk.SourceVMDK
			if done.Disks[0].Raw {
				source = vmdk.SourceRaw
			}
			if got := contentOn(t, treeOf(t, devices), "/vmfs/volumes/ds/"+done.Disks[0].Path, source); !bytes.Equal(got, points[2]) || done.Disks[0].Raw != (format == FormatSame) {
				t.Errorf("%s, series %v: another content", format, series)
			}
		}
	}
	if _, err := toVolume(t, newVolume(t, vmfs.VMFS5, 300<<20), ProvisionThin, "", bytes.NewReader(all[1])); !errors.Is(err, disk.ErrMismatch) {
		t.Errorf("an increment alone: %v", err)
	}
}

// TestRestoreVolumeNot leaves nothing behind of a stream that is damaged, and of one that
// there is no room for.
func TestRestoreVolumeNot(t *testing.T) {
	_, b := volumeVM(t)
	devices := newVolume(t, vmfs.VMFS5, 300<<20)
	empty := func(what string) {
		t.Helper()
		if entries, err := disk.ReadDir(treeOf(t, devices), "/vmfs/volumes/ds"); err != nil || slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !strings.HasSuffix(e.Name(), ".sf") }) {
			t.Errorf("%s: left %v, %v", what, entries, err)
		}
	}
	for n := len(b) - 1; n > 0; n -= 30_001 {
		if _, err := toVolume(t, devices, ProvisionSame, "", bytes.NewReader(b[:n])); err == nil {
			t.Fatalf("%d bytes of %d are enough", n, len(b))
		}
		empty("a part of a stream")
	}
	path := filepath.Join(t.TempDir(), "large.raw")
	if err := errors.Join(os.WriteFile(path, []byte("x"), 0o600), os.Truncate(path, 1<<30)); err != nil {
		t.Fatal(err)
	}
	large := backup(t, path, streamOptions("none"))
	if _, err := toVolume(t, devices, ProvisionZeroed, "", bytes.NewReader(large)); !errors.Is(err, vmfs.ErrFull) {
		t.Errorf("a disk that is too large: %v", err)
	}
	empty("a disk that is too large")
	w, err := vmfs.OpenWriter(devices, vmfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]error{"none": fs.ErrNotExist, ".fbb.sf": fs.ErrInvalid} {
		if _, err := RestoreChain(t.Context(), []io.Reader{bytes.NewReader(b)}, RestoreOptions{Volume: &Volume{W: w, Dir: dir}}); !errors.Is(err, want) {
			t.Errorf("into %s: %v", dir, err)
		}
	}
	if _, err := RestoreChain(t.Context(), []io.Reader{bytes.NewReader(large)}, RestoreOptions{IgnoreSpace: true, Volume: &Volume{W: w, Dir: ".", Provisioning: ProvisionEagerZeroed}}); !errors.Is(err, vmfs.ErrFull) {
		t.Errorf("a disk that is too large, tried all the same: %v", err)
	}
	empty("a disk that was too large")
}

var errPower = errors.New("the power is gone")

// dying is a device of a machine whose power goes after some writes.
type dying struct {
	vmfs.ReadWriterAt
	left int
}

func (d *dying) WriteAt(p []byte, off int64) (int, error) {
	if d.left == 0 {
		return 0, errPower
	}
	d.left--
	return d.ReadWriterAt.WriteAt(p, off)
}

// TestRestoreVolumeCrash ends a restore at each of its writes: what was on the volume is
// there, and there is no configuration without all that it needs.
func TestRestoreVolumeCrash(t *testing.T) {
	content, b := volumeVM(t)
	points := threePoints()
	for n := 0; ; n++ {
		if n > 2000 {
			t.Fatal("it is never done")
		}
		devices := newVolume(t, vmfs.VMFS5, 300<<20)
		if _, err := toVolume(t, devices, ProvisionThin, "", bytes.NewReader(chainOf(t, "none", points[:1])[0])); err != nil {
			t.Fatal(err)
		}
		_, err := toVolume(t, []vmfs.WriteDevice{{Name: "dying", RW: &dying{devices[0].RW, n}, SizeBytes: devices[0].SizeBytes}}, ProvisionSame, "", bytes.NewReader(b))
		if err != nil && !errors.Is(err, errPower) {
			t.Fatal(err)
		}
		tree := treeOf(t, devices, vmfs.Lost, vmfs.Orphan, vmfs.BadLinks)
		if !bytes.Equal(contentOn(t, tree, "/vmfs/volumes/ds/d/d.raw", vmdk.SourceRaw), points[0]) {
			t.Fatalf("after %d writes: what was there is not what it was", n)
		}
		if _, statErr := tree.Stat("/vmfs/volumes/ds/web01/web01.vmx"); statErr == nil {
			m, err := vm.Load("/vmfs/volumes/ds/web01/web01.vmx", vm.LoadOptions{Tree: tree})
			if err != nil || len(m.Files) != 3 || !bytes.Equal(contentOn(t, tree, m.Disks[0].Path, ""), content) {
				t.Fatalf("after %d writes: a VM that is not whole: %v", n, err)
			}
		} else if err == nil {
			t.Fatal(statErr)
		}
		if err == nil {
			t.Logf("%d writes", n)
			return
		}
	}
}
