// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/vmdk"
)

// hostedStates are what a grain of a hosted delta can be, the frequent ones
// more than once.
func hostedStates() []vmdk.GrainState {
	return []vmdk.GrainState{vmdk.GrainAbsent, vmdk.GrainAbsent, vmdk.GrainStored, vmdk.GrainZero}
}

// addHosted adds a hosted sparse delta as other products make it. It can say
// that a grain is zero (entry 1 of a table), what a COWD file cannot.
func (d *testDisk) addHosted(states []vmdk.GrainState, fill byte) {
	d.t.Helper()
	d.below, d.zeroed = append(d.below, slices.Clone(d.model)), append(d.zeroed, slices.Contains(states, vmdk.GrainZero))
	size := int64(len(d.model))
	file := make([]byte, vmdk.SegmentOverhead(size))
	vmdk.PutSegment(file, size, states)
	for i, s := range states {
		part := d.model[i*vmdk.GrainBytes : min((i+1)*vmdk.GrainBytes, len(d.model))]
		switch s {
		case vmdk.GrainZero:
			clear(part)
		case vmdk.GrainStored:
			copy(part, piece{n: len(part) / 512, fill: fill}.bytes())
			file = append(file, part...)
			file = append(file, make([]byte, vmdk.GrainBytes-len(part))...)
		}
	}
	d.hosted++
	name := fmt.Sprintf("hosted%d", d.hosted)
	below, err := vmdk.ReadDescriptor(d.top())
	d.must(err)
	text, err := (&vmdk.Descriptor{
		Version: 1, CID: newCID(), ParentCID: below.Descriptor.CID, CreateType: vmdk.TypeTwoGbSparse, ParentFileNameHint: filepath.Base(d.top()),
		Extents: []vmdk.Extent{{Access: vmdk.AccessRW, Sectors: size / 512, Type: vmdk.ExtentSparse, Name: name + "-s001.vmdk"}},
		DDB:     []vmdk.Entry{{Key: "ddb.adapterType", Value: "lsilogic"}},
	}).Marshal()
	d.must(err)
	d.must(os.WriteFile(d.path(name+"-s001.vmdk"), file, 0o600))
	d.must(os.WriteFile(d.path(name+".vmdk"), text, 0o600))
	d.must(os.WriteFile(d.path(configName), []byte(name+".vmdk"), 0o600))
}

// mountable reports if libvmdk 20200926 can be asked: it refuses disks of type
// monolithicFlat, and takes an entry 1 of a hosted grain table for sector 1 of
// the file.
func (d *testDisk) mountable() bool {
	return d.kind != baseFlat && !slices.Contains(d.zeroed, true)
}

// copyDescribed copies the disk, gives a chain of ESX 2.x the descriptors that
// QEMU and libvmdk want, and returns the descriptor of the top.
func (d *testDisk) copyDescribed(to string) string {
	d.t.Helper()
	d.must(os.Mkdir(to, 0o700))
	for _, name := range d.files() {
		b, err := os.ReadFile(d.path(name))
		d.must(err)
		if d.kind == baseESX2 {
			name += ".data"
		}
		d.must(os.WriteFile(filepath.Join(to, name), b, 0o600))
	}
	top := filepath.Base(d.top())
	if d.kind != baseESX2 {
		return filepath.Join(to, top)
	}
	sectors, base := int64(len(d.model))/512, strings.TrimSuffix(top, strings.Repeat(redoSuffix, len(d.below)))
	link := vmdk.Descriptor{Version: 1, CID: 1, ParentCID: vmdk.NoParent, CreateType: vmdk.TypeVMFS, DDB: []vmdk.Entry{{Key: "ddb.adapterType", Value: "lsilogic"}}}
	extent := vmdk.ExtentVMFS
	for i := range len(d.below) + 1 {
		name := base + strings.Repeat(redoSuffix, i)
		link.Extents = []vmdk.Extent{{Access: vmdk.AccessRW, Sectors: sectors, Type: extent, Name: name + ".data"}}
		text, err := link.Marshal()
		d.must(err)
		d.must(os.WriteFile(filepath.Join(to, name), text, 0o600))
		link.ParentCID, link.CID = link.CID, link.CID+1
		link.CreateType, link.ParentFileNameHint, extent = vmdk.TypeVMFSSparse, name, vmdk.ExtentVMFSSparse
	}
	return filepath.Join(to, top)
}
