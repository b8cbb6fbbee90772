// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vmstream/vmstream/disk"
)

// openOn makes the opening record that of an increment on p.
func (w *streamWriter) openOn(p *Opening) error {
	if p.ID == w.opt.ID { // no reader could tell one from the other
		return fmt.Errorf("the parent backup has the id %s, too: %w; an increment needs one of its own", w.opt.ID, disk.ErrMismatch)
	}
	if p.Depth >= MaxDepth {
		return fmt.Errorf("the parent backup %s is increment %d of its chain: %w; a full backup is needed, which merge can make of the chain, too", p.ID, p.Depth, disk.ErrUnsupported)
	}
	w.opening.ParentID, w.opening.Depth = p.ID, p.Depth+1
	w.opening.Name = fmt.Sprintf("%s+%d", p.VMName(), p.Depth+1)
	return nil
}

// parentOf returns the disk that an increment of d is one on.
func (o *Opening) parentOf(d *DiskRecord) (*DiskRecord, error) {
	if o == nil {
		return nil, errors.New("changes need a parent")
	}
	for i := range o.Disks {
		p := &o.Disks[i]
		if p.Key != d.Key {
			continue
		}
		if p.CapacityBytes != d.CapacityBytes {
			return nil, fmt.Errorf("the capacity is %d bytes, in the parent backup %s it is %d: %w; a full backup is needed", d.CapacityBytes, o.ID, p.CapacityBytes, disk.ErrMismatch)
		}
		return p, nil
	}
	return nil, fmt.Errorf("the parent backup %s does not have it: %w", o.ID, disk.ErrMismatch)
}

// sameOrder makes sure that the disks that are increments stand in the order of
// those that they are ones on: a chain that is read side by side takes one disk
// after the other.
func (o *Opening) sameOrder(parent *Opening) error {
	last := -1
	for i := range o.Disks {
		d := &o.Disks[i]
		if !d.Increment() {
			continue
		}
		at := slices.IndexFunc(parent.Disks, func(p DiskRecord) bool { return p.Key == d.Key })
		if at < last {
			return fmt.Errorf("disk %s: the disks are in another order than in the parent backup %s: %w", d.Key, parent.ID, disk.ErrMismatch)
		}
		last = at
	}
	return nil
}
