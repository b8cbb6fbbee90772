// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"crypto/sha256"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// wholeExtent is a packed extent of a disk that is whole, as a writer makes it,
// with its digest. Where no increment has anything of it, a merge copies it.
type wholeExtent struct {
	meta, grains []byte
	stored       int
	sha          [sha256.Size]byte
}

// wholeTaker is a target that may take an extent as it is.
type wholeTaker interface {
	// whole reports if the extent, which covers n bytes at off, has been taken;
	// if not, its grains are to follow. It does not keep x.
	whole(off, n int64, x *wholeExtent) (taken bool, err error)
}

// whole offers the extent to the target. Only one that is in memory, that has
// been hashed, and that a writer could have made of this content is offered.
func (t *task) whole(w wholeTaker, meta []byte, stored int) (bool, error) {
	h, ok := t.feed.(*held)
	if !ok || !t.hashed || t.disk.rec.Increment() || t.head.ExplicitZeros || len(h.b) != stored*vmdk.GrainBytes || stored == 0 {
		return false, nil
	}
	for i := 0; i < len(h.b); i += vmdk.GrainBytes {
		if disk.IsZero(h.b[i : i+vmdk.GrainBytes]) {
			return false, nil
		}
	}
	if t.head.CapacityBytes%vmdk.GrainBytes != 0 {
		return false, nil // what is behind the end of the disk is checked elsewhere
	}
	x := &wholeExtent{meta: meta, grains: h.b, stored: stored}
	t.sum.Sum(x.sha[:0])
	return w.whole(t.off, t.head.CapacityBytes, x)
}

// whole offers an extent to the merger.
func (d *layerDisk) whole(off, n int64, x *wholeExtent) (bool, error) {
	c := d.l.chain
	_, merging := c.sink.(*merger)
	if !merging || d.l.opening.ExtentBytes != c.layers[len(c.layers)-1].opening.ExtentBytes {
		return false, nil
	}
	taken := false
	err := d.l.send(event{off: off, n: n, whole: x, taken: &taken})
	return taken, err
}

// offer deals with the extent that layer l offers, of which a writer could take
// the part [pos, stop): all of it or nothing.
func (l *layer) offer(w disk.Writer, pos, stop int64) (taken bool, err error) {
	x, ok := w.(wholeTaker)
	if !ok || pos != l.cur.off || stop != l.cur.off+l.cur.n {
		return false, nil
	}
	*l.cur.taken, err = x.whole(l.cur.off, l.cur.n, l.cur.whole)
	return *l.cur.taken, target(err)
}

// whole hands an extent to the writer of the merged stream.
func (d *mergedDisk) whole(off, n int64, x *wholeExtent) (bool, error) {
	return true, d.send(event{off: off, n: n, whole: x})
}

// put copies the extent to a slot.
func (x *wholeExtent) put(s *slot) *packed {
	n := copy(s.mem[s.extent:], x.meta)
	n += copy(s.mem[s.extent+n:], x.grains)
	return &packed{stored: x.stored, extent: true, size: int64(n), sha: x.sha}
}
