// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"fmt"
	"io/fs"
	"iter"

	"github.com/vmstream/vmstream/disk"
)

// Unwritten is the CID of a link that was created and not written to. It does
// not tell one content from another.
const Unwritten uint32 = 0xfffffffe

// HasContentID reports if the link has a CID that tells its content from what
// it was before: it has a descriptor, or lies below a redo log that notes one.
func (l *LinkInfo) HasContentID() bool { return l.CID != 0 && l.CID != Unwritten }

// ContentID returns the id of the disk's content, 0 if it has none. What lies
// under links that nothing was written to has the same content as they.
func (d *Disk) ContentID() (uint32, error) {
	for _, l := range d.links {
		if info := l.Info(); info.HasContentID() {
			return info.CID, nil
		} else if info.CID != Unwritten {
			return 0, nil
		}
		for r, err := range l.Runs(0, l.Size()) {
			if err != nil {
				return 0, err
			}
			if r.Kind != disk.Parent {
				return 0, nil
			}
		}
	}
	return 0, nil
}

// Above returns the content of the n topmost links of the chain alone: runs of
// kind Parent are where none of them has anything. It is part of d, which has
// to stay open, and is not to be closed.
func (d *Disk) Above(n int) (disk.Image, error) {
	if n < 0 || n > len(d.links) {
		return nil, fmt.Errorf("%d links of a chain of %d: %w", n, len(d.links), fs.ErrInvalid)
	}
	var im disk.Image = nothing(d.Size())
	var err error
	for i := n - 1; i >= 0; i-- {
		if im, err = disk.Overlay(d.links[i], im); err != nil {
			return nil, err
		}
	}
	return im, nil
}

// nothing is a link of that many bytes without any content.
type nothing int64

func (n nothing) Size() int64  { return int64(n) }
func (n nothing) Close() error { return nil }

func (n nothing) ReadAt(p []byte, off int64) (int, error) {
	want, eof := clipRange(len(p), off, int64(n))
	clear(p[:want])
	return want, eof
}

func (n nothing) Runs(off, length int64) iter.Seq2[disk.Run, error] {
	return func(yield func(disk.Run, error) bool) {
		if end := clipEnd(off, length, int64(n)); end > off {
			yield(disk.Run{Offset: off, Length: end - off, Kind: disk.Parent}, nil)
		}
	}
}
