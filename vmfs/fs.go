// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/lru"
)

// FS is a volume. It is safe for concurrent use.
type FS struct {
	vol      *volume
	header   *Header
	pointers int64 // addresses in a pointer block

	fdc, pbc, pb2, sbc *resources

	blocks  *lru.Cache[address, []address] // of pointer blocks
	folders *lru.Cache[uint32, *directory]
}

// What is kept in memory of a volume, whatever its size.
const (
	pointerCacheBytes   = 16 << 20
	directoryCacheBytes = 32 << 20
)

// Addresses of the first file descriptors.
const rootAddress = uint32(kindDescriptor)

// systemAddress is that of the n-th file descriptor.
func systemAddress(n uint64) uint32 { return descriptorAddress(resourceID{index: n}) }

// Numbers of the system files' descriptors.
const (
	numberFBB = 1
	numberFDC = 2
	numberPBC = 3
	numberSBC = 4
	numberPB2 = 6
)

// Open opens the volume on the devices, which may be given in any order. Devices that
// belong to no volume are an error, as are several volumes unless o says which one.
// The devices must stay readable, and are not closed.
func Open(devices []Device, o Options) (*FS, error) {
	vol, err := openVolume(devices, o)
	if err != nil {
		return nil, err
	}
	h, err := readHeader(vol)
	if err != nil {
		return nil, err
	}
	return newFS(vol, h)
}

func openVolume(devices []Device, o Options) (*volume, error) {
	members, bare, bareOn, err := scan(devices)
	if err != nil {
		return nil, err
	}
	var candidates []*volume
	var failures []error
	groups := map[volumeKey][]*member{}
	var order []volumeKey
	for _, m := range members {
		k := volumeKey{m.lvm.Volume, m.lvm.SnapshotID}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], m)
	}
	for _, k := range order {
		v, err := assemble(devices, groups[k], o.AllowMissing)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		candidates = append(candidates, v)
	}
	for i, p := range bare {
		candidates = append(candidates, bareVolume(devices, bareOn[i], p))
	}
	return choose(candidates, failures, o.Volume)
}

// choose picks the volume that is wanted.
func choose(all []*volume, failures []error, wanted string) (*volume, error) {
	var names []string
	for _, v := range all {
		if wanted == "" {
			break
		}
		h, err := readHeader(v)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		if wanted == h.Label || wanted == h.UUID.String() {
			return v, nil
		}
		names = append(names, h.Label)
	}
	switch {
	case wanted == "" && len(all) == 1 && len(failures) == 0:
		return all[0], nil
	case len(failures) > 0:
		return nil, errors.Join(failures...)
	case wanted != "":
		return nil, fmt.Errorf("VMFS: volume %q is not on the devices, which have %q: %w", wanted, names, ErrNoVolume)
	case len(all) == 0:
		return nil, fmt.Errorf("VMFS: %w on the devices", ErrNoVolume)
	}
	for _, v := range all {
		if h, err := readHeader(v); err == nil {
			names = append(names, fmt.Sprintf("%s (%s)", h.Label, h.UUID))
		}
	}
	return nil, fmt.Errorf("VMFS: the devices have %d volumes, %s: say which: %w", len(all), strings.Join(names, ", "), disk.ErrUnsupported)
}

func newFS(vol *volume, h *Header) (*FS, error) {
	f := &FS{
		vol: vol, header: h,
		blocks: lru.New[address, []address](pointerCacheBytes), folders: lru.New[uint32, *directory](directoryCacheBytes),
	}
	f.pointers = 4096 / 4
	if h.wide() {
		f.pointers = 65536 / 8
	}
	return f, f.bootstrap()
}

func (f *FS) addressBytes() int64 {
	if f.header.wide() {
		return 8
	}
	return 4
}

// bootstrap opens the system files. Their descriptors are the first ones, and are
// found without the others; each of these files may lie behind those before it.
func (f *FS) bootstrap() error {
	h := f.header
	if h.fdcOffset == 0 || h.fdcClusters == 0 { // the file of file descriptors has it, too
		b := make(fields, resourceHeaderLen)
		if err := f.vol.readFull(b, h.fdcStart(), ".fdc.sf"); err != nil {
			return err
		}
		h.fdcClusters, h.fdcOffset = b.u32(4), b.u32(8)
	}
	pointerBytes := f.pointers * f.addressBytes()
	open := func(r **resources, name string, number uint64, least, most int64) error {
		file, err := f.systemFile(name, number)
		if err == nil {
			*r, err = f.openResources(name, file, least, most)
		}
		return err
	}
	if h.Generation != VMFS3 {
		if err := open(&f.pb2, ".pb2.sf", numberPB2, pointerBytes, h.BlockBytes); err != nil {
			return err
		}
	}
	if err := open(&f.pbc, ".pbc.sf", numberPBC, pointerBytes, h.BlockBytes); err != nil {
		return err
	}
	if err := open(&f.fdc, ".fdc.sf", numberFDC, h.fdBytes(), h.fdBytes()); err != nil {
		return err
	}
	if f.fdc.total == 0 {
		return f.fdc.file.corrupt(".fdc.sf header", 0, "has no file descriptors")
	}
	return open(&f.sbc, ".sbc.sf", numberSBC, 512, h.BlockBytes)
}

// systemFile reads the descriptor of a system file.
func (f *FS) systemFile(name string, number uint64) (*layout, error) {
	h := f.header
	at := h.fdcStart() + int64(h.fdcOffset) + int64(h.fdcClusters)*h.clusterHeaderBytes() + int64(number)*h.fdBytes()
	n, err := f.descriptorAt(at, systemAddress(number))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if n.stat.Type != System || n.stat.isDir() {
		return nil, n.layout.corrupt("type", 0, "%s is a %v", name, n.stat.Type)
	}
	n.layout.name = name
	return &n.layout, nil
}

// Header returns what the file system says of itself.
func (f *FS) Header() Header { return *f.header }

// Members returns what the LVM says of the volume's devices, in the order of the volume,
// with the device each is on. There are none for a file system without an LVM.
func (f *FS) Members() []Member {
	var all []Member
	for _, m := range f.vol.members {
		all = append(all, Member{Device: m.device, Partition: m.part, LVM: m.lvm})
	}
	return all
}

// Member is a partition that is a part of a volume.
type Member struct {
	Device    int // index among those given to Open
	Partition Partition
	LVM       LVM
}

// SizeBytes is the length of the logical volume.
func (f *FS) SizeBytes() int64 { return f.vol.size }
