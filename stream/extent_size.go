// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"fmt"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// descriptorRest is what a descriptor has beside its extent lines, at most: the
// opening record bounds its parts.
const descriptorRest = 64 << 10

// chooseExtents settles the size of extents. A descriptor lists them all, and
// readers of VMDK take no more than so many lines, some of them without an
// error for the rest; a disk that could need more is refused before anything
// is read, or gets larger extents if the caller leaves them to us.
func (w *streamWriter) chooseExtents() error {
	o := &w.opt
	extent := o.ExtentBytes
	if extent == 0 {
		extent = DefaultExtentBytes
	}
	for i := range w.disks {
		d := &w.disks[i]
		for {
			n, err := mostExtents(d.changes(), d.Image.Size(), extent)
			if err != nil {
				return fmt.Errorf("disk %s: %w", d.Record.Key, err)
			}
			if n <= possibleExtents(&d.Record) {
				break
			}
			if o.ExtentBytes != 0 || extent*2 > MaxExtentBytes {
				return fmt.Errorf("disk %s: it may have %d extents of %d bytes, its descriptor has room for %d: %w; larger extents, and the memory for them, are needed", d.Record.Key, n, extent, possibleExtents(&d.Record), disk.ErrUnsupported)
			}
			extent *= 2
		}
	}
	o.ExtentBytes = extent
	return CheckMemory(o)
}

// possibleExtents returns how many extent lines the disk's descriptor can have.
func possibleExtents(r *DiskRecord) int64 {
	line := len("RW 2097152 SPARSE \"\"\n") + len(r.extentName(9_999_999))
	return min(vmdk.MaxExtents, (vmdk.MaxDescriptorBytes-descriptorRest)/int64(line))
}

// mostExtents returns how many extents a disk of size bytes can have at most:
// segments that are not known to be zero, and runs of others between them.
func mostExtents(im Changes, size, extent int64) (int64, error) {
	all := (size + extent - 1) / extent
	if all <= 4096 { // fits every descriptor
		return all, nil
	}
	var touched, runs int64
	empty := disk.Zero // or the other kind, if the disk begins with it
	next := int64(0)   // the first segment that has not been counted
	for r, err := range im.Runs(0, size) {
		if err != nil {
			return 0, err
		}
		if runs++; runs > maxRuns {
			return all, nil
		}
		if runs == 1 && r.Kind == disk.Parent {
			empty = disk.Parent
		}
		if r.Kind == empty {
			continue
		}
		first, end := max(r.Offset/extent, next), (r.End()+extent-1)/extent
		if end > first {
			touched += end - first
			next = end
		}
	}
	return min(all, 2*touched+1), nil
}
