// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"fmt"
	"io"

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
	var first [1]byte
	if err := disk.ReadFull(f, first[:], 0); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if first[0] != '{' {
		res, err := stream.FindIndex(f, st.Size())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return res.Index, nil
	}
	if st.Size() > maxIndexFile {
		return nil, fmt.Errorf("%s: %d bytes are too long for an index: %w", path, st.Size(), disk.ErrUnsupported)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxIndexFile))
	if err != nil {
		return nil, err
	}
	ix, err := stream.ParseIndex(b, -1)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ix, nil
}

// Since makes the source an increment on an earlier backup: of each disk only
// what the links have that lie above what was backed up then. Which link that
// was, its content id tells: every product changes it with the first write, so
// the link with the same one has the same content. A disk that the parent does
// not have is taken whole.
func (s *Source) Since(parent *stream.Opening) error {
	for i := range s.Disks {
		d := &s.Disks[i]
		was := diskOf(parent, d.Record.Key)
		if was == nil {
			continue
		}
		im, ok := d.Image.(*vmdk.Disk)
		if !ok || was.Source.CID == "" {
			return fmt.Errorf("disk %s: it has no content id (it is %s), so what has changed since backup %s cannot be told; a full backup is needed: %w", d.Record.Key, was.Source.Kind, parent.ID, disk.ErrUnsupported)
		}
		links := im.Info().Links
		n := 0
		for n < len(links) && (!links[n].HasContentID() || stream.CIDString(links[n].CID) != was.Source.CID) {
			n++
		}
		if n == len(links) {
			return fmt.Errorf("disk %s: no link of its chain has the content id %s that backup %s was made from: it has been written to since, or is another disk; a full backup is needed: %w", d.Record.Key, was.Source.CID, parent.ID, disk.ErrMismatch)
		}
		changes, err := im.Above(n)
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Record.Key, err)
		}
		d.Changes = changes
	}
	return nil
}

func diskOf(o *stream.Opening, key string) *stream.DiskRecord {
	for i := range o.Disks {
		if o.Disks[i].Key == key {
			return &o.Disks[i]
		}
	}
	return nil
}
