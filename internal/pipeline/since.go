// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

// maxIndexFile bounds an index read whole: that of a stream of 32 TiB.
const maxIndexFile = 1 << 30

// OpenParent reads what an increment needs of its parent from a stream in a
// file, or from an index that a backup has written beside it.
func OpenParent(path string) (*stream.Index, error) {
	f, err := disk.OpenRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return parentIn(f, st.Size(), path)
}

// parentIn reads a stream or an index of size bytes; name is for errors.
func parentIn(r io.ReaderAt, size int64, name string) (*stream.Index, error) {
	var first [1]byte
	if err := disk.ReadFull(r, first[:], 0); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if first[0] != '{' {
		res, err := stream.FindIndex(r, size)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return res.Index, nil
	}
	if size > maxIndexFile {
		return nil, fmt.Errorf("%s: %d bytes are too long for an index: %w", name, size, disk.ErrUnsupported)
	}
	b, err := io.ReadAll(io.NewSectionReader(r, 0, size))
	if err != nil {
		return nil, err
	}
	ix, err := stream.ParseIndex(b, -1)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return ix, nil
}

// TrackParent is the value of SinceOptions.TrackBytes that keeps tracking what
// the parent has tracked.
const TrackParent = -1

// SinceOptions say how an increment is made.
type SinceOptions struct {
	// TrackBytes is the size of the blocks whose digests go into the index: 0
	// for none, TrackParent for what the parent has.
	TrackBytes int64
	Detail     func(string) // takes how changes are found; may be nil
}

// Track makes the index have digests of the blocks of all disks, of blockBytes
// each; 0: none.
func (s *Source) Track(blockBytes int64) {
	for i := range s.Disks {
		s.Disks[i].Record.TrackBytes = blockBytes
	}
}

// Since makes the source an increment on an earlier backup: of each disk only
// what has changed since. A disk that the parent does not have is taken whole.
func (s *Source) Since(parent *stream.Index, o SinceOptions) error {
	if o.Detail == nil {
		o.Detail = func(string) {}
	}
	if err := refuseFree(parent); err != nil {
		return err
	}
	s.orderAs(parent.Opening)
	for i := range s.Disks {
		d := &s.Disks[i]
		d.Was = parent.Track(d.Record.Key)
		d.Record.TrackBytes = o.TrackBytes
		if o.TrackBytes == TrackParent {
			d.Record.TrackBytes = trackedBytes(parent, d.Was)
		}
		was := diskOf(parent.Opening, d.Record.Key)
		if was == nil {
			continue
		}
		if err := s.sinceDisk(i, was, parent.Opening, o.Detail); err != nil {
			return fmt.Errorf("disk %s: %w", d.Record.Key, err)
		}
	}
	return nil
}

// orderAs puts the disks that an earlier backup has, too, in the order that they
// have there: a running machine may list them in any.
func (s *Source) orderAs(o *stream.Opening) {
	place := func(i int) int {
		return slices.IndexFunc(o.Disks, func(d stream.DiskRecord) bool { return d.Key == s.Disks[i].Record.Key })
	}
	for i := range s.Disks {
		for j := i; place(i) >= 0 && j < len(s.Disks); j++ {
			if p := place(j); p >= 0 && p < place(i) {
				s.Disks[i], s.Disks[j] = s.Disks[j], s.Disks[i]
				s.Snapshot.Disks[i], s.Snapshot.Disks[j] = s.Snapshot.Disks[j], s.Snapshot.Disks[i]
			}
		}
	}
}

// trackedBytes returns the size of the blocks that the parent has digests of: a
// disk that is new is tracked as the others are.
func trackedBytes(parent *stream.Index, was *stream.Track) int64 {
	if was != nil {
		return was.BlockBytes
	}
	for i := range parent.Opening.Disks {
		if n := parent.Opening.Disks[i].TrackBytes; n != 0 {
			return n
		}
	}
	return 0
}

// sinceDisk finds what tells the changes of a disk, best first: who took the
// snapshot, links above the content id that was backed up, digests of blocks.
func (s *Source) sinceDisk(i int, was *stream.DiskRecord, parent *stream.Opening, detail func(string)) error {
	d := &s.Disks[i]
	c, why := s.changes(i, was, parent)
	switch {
	case why == nil:
		d.Changes = c
		return nil
	case !errors.Is(why, disk.ErrMismatch) && !errors.Is(why, disk.ErrUnsupported):
		return why
	case d.Was == nil:
		return fmt.Errorf("%w; a full backup is needed, with --track if nothing else can tell the changes of this disk", why)
	case d.Record.TrackBytes != 0 && d.Record.TrackBytes != d.Was.BlockBytes:
		return fmt.Errorf("%w; it can be compared with the blocks of %d bytes that backup %s has the digests of, but not to track others: leave --track out, or say off", why, d.Was.BlockBytes, parent.ID)
	}
	d.Compare = true
	detail(fmt.Sprintf("disk %s: %v; all of it is read and compared with the digests in backup %s", d.Record.Key, why, parent.ID))
	return nil
}

// changes returns what tells the changes of the i-th disk without reading it,
// or why nothing can (disk.ErrMismatch, disk.ErrUnsupported).
func (s *Source) changes(i int, was *stream.DiskRecord, parent *stream.Opening) (stream.Changes, error) {
	if tell := s.Snapshot.Disks[i].Changes; tell != nil {
		return tell(parent.ID)
	}
	return changesAbove(&s.Disks[i], was, parent)
}

// changesAbove returns what the links have that lie above what was backed up.
// Which link that was, its content id tells: every product changes it with the
// first write, so the link with the same one has the same content. The error
// says why it cannot be told.
func changesAbove(d *stream.Disk, was *stream.DiskRecord, parent *stream.Opening) (stream.Changes, error) {
	im, ok := d.Image.(*vmdk.Disk)
	if !ok || was.Source.CID == "" {
		return nil, fmt.Errorf("it has no content id (it is %s), so its links do not tell what has changed since backup %s: %w", was.Source.Kind, parent.ID, disk.ErrUnsupported)
	}
	links := im.Info().Links
	for n := range links {
		if contentIDOf(&links[n]) == was.Source.CID {
			return im.Above(n)
		}
	}
	return nil, fmt.Errorf("no link of its chain has the content id %s that backup %s was made from: it has been written to since, or is another disk: %w", was.Source.CID, parent.ID, disk.ErrMismatch)
}

// contentIDOf returns what tells the content of a link from any other that it
// had before, "" if nothing does.
func contentIDOf(l *vmdk.LinkInfo) string {
	if !l.HasContentID() {
		return ""
	}
	return stream.CIDString(l.CID)
}

func diskOf(o *stream.Opening, key string) *stream.DiskRecord {
	for i := range o.Disks {
		if o.Disks[i].Key == key {
			return &o.Disks[i]
		}
	}
	return nil
}
