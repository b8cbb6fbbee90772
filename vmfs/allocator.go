// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"errors"
	"fmt"

	"github.com/vmstream/vmstream/disk"
)

// allocator takes resources of a table and gives them back, in the bitmaps of its
// clusters.
type allocator struct {
	w     *Writer
	res   *resources
	first uint64 // cluster, those before it are left alone
	next  uint64 // cluster to look at first
}

func (a *allocator) id(number uint64) resourceID {
	return resourceID{number / a.res.perCluster, number % a.res.perCluster}
}

func (a *allocator) number(id resourceID) uint64 { return id.cluster*a.res.perCluster + id.index }

func (a *allocator) clusters() uint64 {
	if a.res.perCluster == 0 {
		return 0
	}
	return (a.res.total + a.res.perCluster - 1) / a.res.perCluster
}

// cluster reads the second half of a cluster's header, and tells where it lies.
func (a *allocator) cluster(n uint64) (b fields, at int64, err error) {
	s, err := a.res.file.extend(int64(a.res.clusterHeader(n)), 1024, 0)
	if err != nil {
		return nil, 0, err
	}
	if s.where != Stored || s.length < 1024 {
		return nil, 0, a.res.file.corrupt("cluster header", int64(a.res.clusterHeader(n)), "is not in one piece")
	}
	h := make(fields, 1024)
	if err := a.w.fs.vol.readFull(h, s.offset, "cluster header"); err != nil {
		return nil, 0, err
	}
	l := parseLock(h[:lockLen])
	switch {
	case l.addr != uint64(s.offset) || uint64(h[clusterMeta:].u32(0)) != n:
		return nil, 0, a.res.file.corrupt("cluster header", int64(a.res.clusterHeader(n)), "is that of another cluster: check the volume")
	case l.Mode != Unlocked:
		return nil, 0, fmt.Errorf("VMFS: cluster %d of %s is locked: %w", n, a.res.name, ErrInUse)
	}
	return h[clusterMeta:], s.offset + clusterMeta, nil
}

// free returns how many resources are free.
func (a *allocator) free() (n uint64, err error) {
	for c := range a.clusters() {
		b, _, err := a.cluster(c)
		if err != nil {
			return 0, err
		}
		n += uint64(min(b.u32(8), clusterBitmapLen*8))
	}
	return n, nil
}

// take takes n resources, those of one cluster in ascending order. Either all are taken
// or none.
func (a *allocator) take(n int) ([]uint64, error) {
	var taken []uint64
	count := a.clusters()
	for i := uint64(0); i < count && len(taken) < n; i++ {
		c := (a.next + i) % count
		if c < a.first {
			continue
		}
		b, at, err := a.cluster(c)
		if err != nil {
			return nil, errors.Join(err, a.release(taken))
		}
		if b.u32(8) == 0 {
			continue
		}
		size := min(a.res.perCluster, a.res.total-c*a.res.perCluster)
		before := len(taken)
		for k := uint64(0); k < size && len(taken) < n; k++ {
			if b[clusterBitmap+k/8]>>(k%8)&1 == 0 {
				continue
			}
			b[clusterBitmap+k/8] &^= 1 << (k % 8)
			taken = append(taken, c*a.res.perCluster+k)
			b.put32(12, uint32((k+1)%size))
		}
		got := uint32(len(taken) - before)
		if got > b.u32(8) {
			return nil, errors.Join(a.res.file.corrupt("cluster header", at, "has fewer free than its bitmap says: check the volume"), a.release(taken[:before]))
		}
		b.put32(8, b.u32(8)-got)
		if err := a.w.m.write(b, at); err != nil {
			return nil, errors.Join(err, a.release(taken[:before]))
		}
		if len(taken) == n {
			a.next = c
		}
	}
	if len(taken) < n {
		return nil, errors.Join(fmt.Errorf("VMFS: %s has no more: %w", a.res.name, ErrFull), a.release(taken))
	}
	return taken, nil
}

// release gives resources back.
func (a *allocator) release(numbers []uint64) error {
	all := sortedCopy(numbers)
	for i := 0; i < len(all); {
		c := all[i] / a.res.perCluster
		b, at, err := a.cluster(c)
		if err != nil {
			return err
		}
		for ; i < len(all) && all[i]/a.res.perCluster == c; i++ {
			k := all[i] % a.res.perCluster
			if b[clusterBitmap+k/8]>>(k%8)&1 == 1 {
				return fmt.Errorf("VMFS: %d of %s is free already: check the volume: %w", all[i], a.res.name, disk.ErrCorrupt)
			}
			b[clusterBitmap+k/8] |= 1 << (k % 8)
			b.put32(8, b.u32(8)+1)
			b.put32(12, uint32(k))
		}
		if err := a.w.m.write(b, at); err != nil {
			return err
		}
		a.next = max(min(a.next, c), a.first)
	}
	return nil
}
