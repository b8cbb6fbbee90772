// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"cmp"
	"context"
	"fmt"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/disk/freespace"
	"github.com/vmstream/vmstream/stream"
)

// skipFree makes the disks ones that read as zeros where the file systems on them have
// nothing, and notes that in their records.
func (s *Source) skipFree(ctx context.Context, o *SourceOptions) error {
	for i := range s.Disks {
		d := &s.Disks[i]
		m, err := freespace.Find(ctx, d.Image)
		if err != nil {
			return fmt.Errorf("disk %s: looking for free space: %w", d.Record.Key, err)
		}
		d.Image = m.Image(d.Image)
		for _, v := range m.Volumes {
			d.Record.Free = append(d.Record.Free, stream.FreeRecord{
				OffsetBytes: v.OffsetBytes, SizeBytes: v.SizeBytes, Name: v.Name, Kind: v.Kind, FreeBytes: v.FreeBytes, Reason: v.Reason,
			})
			if o.Snapshot.Detail == nil {
				continue
			}
			what := fmt.Sprintf("disk %s: %s, %s", d.Record.Key, cmp.Or(v.Name, "whole disk"), cmp.Or(v.Kind, "no known file system"))
			if v.Reason != "" {
				o.Snapshot.Detail(what + ": nothing is left out: " + v.Reason)
			} else {
				o.Snapshot.Detail(fmt.Sprintf("%s: %d bytes of %d are free and left out", what, v.FreeBytes, v.SizeBytes))
			}
		}
	}
	return nil
}

// refuseFree refuses an increment on a backup whose free space was left out: what has
// been written there since is not told from what was there before.
func refuseFree(ix *stream.Index) error {
	for i := range ix.Opening.Disks {
		if d := &ix.Opening.Disks[i]; len(d.Free) > 0 {
			return fmt.Errorf("backup %s has left out the free space of disk %s (--skip-free), so that there are no increments on it: %w", ix.ID, d.Key, disk.ErrUnsupported)
		}
	}
	return nil
}
