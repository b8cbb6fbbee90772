// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm"
)

// TestLoadCopy loads copies: nothing outside of them is looked at, what is not
// there is left out, and what a guest can write does not make a descriptor.
func TestLoadCopy(t *testing.T) {
	elsewhere := tree(t, map[string]string{"a.vmdk": "the machine's own"})
	config := "scsi0.virtualDev = \"vmxbuslogic\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.name = \"" + elsewhere + "/a.vmdk\"\n" +
		"scsi0:1.present = \"TRUE\"\nscsi0:1.name = \"vmhba0:0:0:1:gone.vmdk\"\n"
	descriptor := "# Disk DescriptorFile\nversion=1\n"
	for _, c := range []struct {
		name, content string
		kind          vm.CopyKind
		raw           bool
		err           error
	}{
		{"descriptor", descriptor, vm.CopyFound, false, nil},
		{"descriptor said to be raw", descriptor, vm.CopyRaw, true, nil},
		{"raw", strings.Repeat("\x00", 1024), vm.CopyFound, true, nil},
		{"raw said to be a VMDK", strings.Repeat("x", 1024), vm.CopyVMDK, false, nil},
		{"guest's descriptor", descriptor + strings.Repeat("\x00", 1024), vm.CopyFound, true, nil},
		{"guest's long text", descriptor + strings.Repeat("\n", 1<<20), vm.CopyFound, true, nil},
		{"sparse or not", "KDMV", vm.CopyFound, false, disk.ErrUnsupported},
		{"COWD or not", "COWD\x01", vm.CopyFound, false, disk.ErrUnsupported},
		{"sparse", "KDMV", vm.CopyVMDK, false, nil},
		{"not sparse", "KDMV", vm.CopyRaw, true, nil},
		{"short", "x", vm.CopyFound, true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := tree(t, map[string]string{"v.cfg": config, "a.vmdk": c.content})
			m, err := vm.Load(filepath.Join(dir, "v.cfg"), vm.LoadOptions{Copy: c.kind})
			if !errors.Is(err, c.err) {
				t.Fatalf("%v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			if len(m.Disks) != 1 || m.Disks[0].Path != filepath.Join(dir, "a.vmdk") || m.Disks[0].Raw != c.raw || !m.RawDisks {
				t.Errorf("%+v", m.Disks)
			}
			if len(m.Warnings) != 1 || !strings.Contains(m.Warnings[0], `"vmhba0:0:0:1:gone.vmdk" (persistent) is not in the copy`) {
				t.Errorf("%q", m.Warnings)
			}
		})
	}
}
