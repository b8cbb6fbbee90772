// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
)

// Range is a range of bytes of a block device.
type Range struct {
	Offset, Length int64
	Unmapped       bool // it holds nothing, and reads as zeros
}

// Thin tells which bytes of a block device on a thin LUN hold nothing. It is safe for
// concurrent use, except that Close comes last.
type Thin struct {
	device   *Device
	capacity Capacity
	place    Place

	mu   sync.Mutex
	last []BlockRange // the last answer
}

// OpenThin opens the LUN under a block device. ErrUnsupported says that it does not tell
// which blocks hold nothing, or not that these read as zeros; ErrNoDevice that there is
// no LUN under it. All of it has to be read then.
func OpenThin(ctx context.Context, node string) (*Thin, error) {
	p, err := Sysfs{}.Place(node)
	if err != nil {
		return nil, err
	}
	if p.LUN.Type != TypeDisk || p.LUN.Node == "" {
		return nil, fmt.Errorf("%s: no disk is under it: %w", node, ErrNoDevice)
	}
	d, err := Open(p.LUN.Node)
	if err != nil {
		return nil, err
	}
	t, err := NewThin(ctx, d, p)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return t, nil
}

// NewThin is OpenThin for a device that is open, which it takes over if it returns no
// error.
func NewThin(ctx context.Context, d *Device, p Place) (*Thin, error) {
	c, err := d.Capacity(ctx)
	switch {
	case err != nil:
		return nil, err
	case !c.Thin || !c.ZeroIfUnmapped:
		return nil, fmt.Errorf("%s: what blocks read as that hold nothing is not told: %w", d.Name(), ErrUnsupported)
	case p.OffsetBytes < 0 || p.SizeBytes < 0 || p.OffsetBytes > c.SizeBytes() || p.SizeBytes > c.SizeBytes()-p.OffsetBytes:
		return nil, fmt.Errorf("%s: bytes %d to %d are not on a LUN of %d: %w", d.Name(), p.OffsetBytes, p.OffsetBytes+p.SizeBytes, c.SizeBytes(), ErrInvalid)
	}
	t := &Thin{device: d, capacity: c, place: p}
	if p.SizeBytes > 0 {
		_, err = t.at(ctx, uint64(p.OffsetBytes/c.BlockBytes))
	}
	return t, err
}

// Close closes the device.
func (t *Thin) Close() error { return t.device.Close() }

// Size returns the size of the block device in bytes.
func (t *Thin) Size() int64 { return t.place.SizeBytes }

// Ranges yields the ranges of [off, off+n) in ascending order and without gaps. An error
// is yielded once and ends them. Nothing of the content is read.
func (t *Thin) Ranges(ctx context.Context, off, n int64) iter.Seq2[Range, error] {
	return func(yield func(Range, error) bool) {
		end := t.place.SizeBytes
		if off < 0 || off >= end {
			return
		}
		if n < end-off {
			end = off + n
		}
		var r Range // not yielded yet
		for off < end {
			next, err := t.next(ctx, off, end)
			if err != nil {
				yield(Range{}, err)
				return
			}
			switch {
			case r.Length == 0:
				r = next
			case r.Unmapped == next.Unmapped:
				r.Length += next.Length
			default:
				if !yield(r, nil) {
					return
				}
				r = next
			}
			off = next.Offset + next.Length
		}
		if r.Length > 0 {
			yield(r, nil)
		}
	}
}

// next returns the range that begins at off, as far as the device tells at a time.
func (t *Thin) next(ctx context.Context, off, end int64) (Range, error) {
	size := t.capacity.BlockBytes
	at := off + t.place.OffsetBytes // on the LUN
	b, err := t.at(ctx, uint64(at/size))
	if err != nil {
		return Range{}, err
	}
	last := end
	if stop := b.LBA + b.Blocks; stop < t.capacity.Blocks {
		last = min(end, int64(stop)*size-t.place.OffsetBytes)
	}
	return Range{Offset: off, Length: last - off, Unmapped: b.State == Deallocated}, nil
}

// at returns the range that has a block. A device tells of several ranges at a time, so
// the last answer is kept.
func (t *Thin) at(ctx context.Context, lba uint64) (BlockRange, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range t.last {
		if lba >= b.LBA && lba-b.LBA < b.Blocks {
			return b, nil
		}
	}
	all, err := t.device.LBAStatus(ctx, lba)
	if err != nil {
		return BlockRange{}, err
	}
	t.last = all
	return all[0], nil
}
