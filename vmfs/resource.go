// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"fmt"
	"math/bits"
)

// resources is a system file that holds many things of one kind: file descriptors,
// sub-blocks, pointer blocks. They are in clusters, and these in groups.
type resources struct {
	name string
	file *layout // of the system file

	perCluster, perGroup uint64
	offset, groupBytes   uint64
	bytes                int64 // of one
	total                uint64
	headerBytes          uint64
}

const resourceHeaderLen = 64

// openResources reads the header of a resource file. What it holds has at least, and
// at most, as many bytes as given.
func (f *FS) openResources(name string, file *layout, least, most int64) (*resources, error) {
	b := make(fields, resourceHeaderLen)
	if err := file.readFull(b, 0, name); err != nil {
		return nil, err
	}
	r := &resources{
		name: name, file: file, perCluster: uint64(b.u32(0)), perGroup: uint64(b.u32(4)), offset: uint64(b.u32(8)),
		bytes: int64(b.u32(0x0C)), groupBytes: uint64(b.u32(0x10)), total: uint64(b.u32(0x14)), headerBytes: uint64(f.header.clusterHeaderBytes()),
	}
	if f.header.wide() {
		r.total |= uint64(b.u32(0x1C)) << 32
	}
	if r.total == 0 { // a table that is not used
		return r, nil
	}
	bad := func(format string, args ...any) error {
		return file.corrupt(name+" header", 0, format, args...)
	}
	const maxCount = 1 << 20 // of resources in a cluster, of clusters in a group
	switch {
	case r.perCluster == 0 || r.perCluster > maxCount || r.perGroup == 0 || r.perGroup > maxCount:
		return nil, bad("%d resources in a cluster, %d clusters in a group", r.perCluster, r.perGroup)
	case r.bytes < least || r.bytes > most:
		return nil, bad("%d bytes for each, %d to %d fit the volume", r.bytes, least, most)
	case r.groupBytes != r.perGroup*(r.headerBytes+r.perCluster*uint64(r.bytes)):
		return nil, bad("a group of %d bytes is not that of %d clusters with %d of %d bytes", r.groupBytes, r.perGroup, r.perCluster, r.bytes)
	case r.total > uint64(file.size)/uint64(r.bytes):
		return nil, bad("%d of %d bytes do not fit a file of %d", r.total, r.bytes, file.size)
	}
	return r, nil
}

// openBitmap reads the header of .fbb.sf, whose file has only the headers of clusters.
func (f *FS) openBitmap(name string, file *layout) (*resources, error) {
	b := make(fields, resourceHeaderLen)
	if err := file.readFull(b, 0, name); err != nil {
		return nil, err
	}
	r := &resources{
		name: name, file: file, perCluster: uint64(b.u32(0)), perGroup: uint64(b.u32(4)), offset: uint64(b.u32(8)),
		groupBytes: uint64(b.u32(0x10)), total: uint64(b.u32(0x14)), headerBytes: uint64(f.header.clusterHeaderBytes()),
	}
	const maxCount = 1 << 20
	if r.perCluster == 0 || r.perCluster > maxCount || r.perGroup == 0 || r.perGroup > maxCount || r.total == 0 ||
		b.u32(0x0C) != 0 || r.groupBytes != r.perGroup*r.headerBytes {
		return nil, file.corrupt(name+" header", 0, "%d blocks, %d in a cluster, %d clusters in a group of %d bytes", r.total, r.perCluster, r.perGroup, r.groupBytes)
	}
	return r, nil
}

// clusterHeader returns where in the system file the header of a cluster begins.
func (r *resources) clusterHeader(n uint64) uint64 {
	return r.offset + n/r.perGroup*r.groupBytes + n%r.perGroup*r.headerBytes
}

// position returns where in the system file a resource begins.
func (r *resources) position(id resourceID) (int64, error) {
	if r == nil {
		return 0, errNoResources
	}
	if r.total == 0 || id.index >= r.perCluster || id.cluster > r.total || id.cluster*r.perCluster+id.index >= r.total {
		return 0, fmt.Errorf("%d of cluster %d is not in %s, which has %d in clusters of %d", id.index, id.cluster, r.name, r.total, r.perCluster)
	}
	group := id.cluster / r.perGroup
	hi, at := bits.Mul64(group, r.groupBytes)
	at += r.offset + r.perGroup*r.headerBytes + (id.cluster%r.perGroup*r.perCluster+id.index)*uint64(r.bytes)
	if hi != 0 || at > uint64(r.file.size) || uint64(r.bytes) > uint64(r.file.size)-at {
		return 0, fmt.Errorf("%d of cluster %d lies at %d of %s, which has %d bytes", id.index, id.cluster, at, r.name, r.file.size)
	}
	return int64(at), nil
}
