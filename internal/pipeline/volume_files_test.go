// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"errors"
	"testing"

	"github.com/vmstream/vmstream/redo"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vmfs"
)

// extendOn extends the disk of web01 on a volume.
func extendOn(t *testing.T, devices []vmfs.WriteDevice, sizeBytes int64) (*redo.Extended, error) {
	t.Helper()
	w, err := vmfs.OpenWriter(devices, vmfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := vmfs.NewTree([]*vmfs.FS{w.FS()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := vm.Load("/vmfs/volumes/ds/web01/web01.vmx", vm.LoadOptions{Tree: tree})
	if err != nil {
		t.Fatal(err)
	}
	return redo.Extend(t.Context(), m.Disks[0].Path, redo.ExtendOptions{
		Options: redo.Options{Tree: tree}, SizeBytes: sizeBytes, Files: &VolumeFiles{W: w, Tree: tree},
	})
}

// TestExtendVolumeCrash ends an extension at each of its writes: the disk is what it was or
// what it is to be, and can be extended then.
func TestExtendVolumeCrash(t *testing.T) {
	content, b := volumeVM(t)
	const size = 9<<20 + 512
	longer := append(bytes.Clone(content), make([]byte, size-len(content))...)
	for _, p := range []Provisioning{ProvisionThin, ProvisionZeroed} {
		done := false
		for n := 0; !done && n < 500; n++ {
			devices := newVolume(t, vmfs.VMFS5, 300<<20)
			if _, err := toVolume(t, devices, p, "", bytes.NewReader(b)); err != nil {
				t.Fatal(err)
			}
			_, err := extendOn(t, []vmfs.WriteDevice{{Name: "dying", RW: &dying{devices[0].RW, n}, SizeBytes: devices[0].SizeBytes}}, size)
			if done = err == nil; !done && !errors.Is(err, errPower) {
				t.Fatal(err)
			}
			const disk = "/vmfs/volumes/ds/web01/old name.vmdk"
			tree := treeOf(t, devices, vmfs.Lost, vmfs.Orphan, vmfs.SharedResource)
			if got := contentOn(t, tree, disk, ""); !bytes.Equal(got, longer) && (done || !bytes.Equal(got, content)) {
				t.Fatalf("%s after %d writes: %d bytes of something else", p, n, len(got))
			}
			if e, err := extendOn(t, devices, size); err != nil || e.NewBytes != size {
				t.Fatalf("%s after %d writes, again: %+v, %v", p, n, e, err)
			}
			if got := contentOn(t, treeOf(t, devices, vmfs.Lost, vmfs.Orphan, vmfs.SharedResource), disk, ""); !bytes.Equal(got, longer) {
				t.Fatalf("%s after %d writes, again: %d bytes of something else", p, n, len(got))
			}
		}
		if !done {
			t.Error("it is never done")
		}
	}
}
