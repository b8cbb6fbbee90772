// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"io"
	"reflect"
	"slices"
)

// Part lets a reader pass over disks that its sink does not take, without reading
// them. What the index says of them is not proved then; everything that is read is,
// by the digests of the same index and of SHA256SUMS.
type Part struct {
	// Index is that of the stream, from FindIndex. One that does not fit what is read
	// gives an error, as damage of the stream does.
	Index *Index
	// From returns the input from a byte of the stream on. What it returned before is
	// not read any more. It is not needed with ReadOptions.File.
	From func(offset int64) (io.Reader, error)
}

// passOver goes behind the disks from the current one on that nobody wants. It reports
// if there were any.
func (x *extentReader) passOver() (bool, error) {
	d := x.d
	if d.opt.Part == nil || d.sink == nil {
		return false, nil
	}
	ix := d.opt.Part.Index
	passed := false
	for ; d.current < len(d.disks); d.current++ {
		s := &d.disks[d.current]
		if s.next > 0 {
			break
		}
		if err := d.openTarget(s); err != nil {
			return false, err
		}
		if s.target != nil {
			break
		}
		if err := d.passDisk(ix, s); err != nil {
			return false, err
		}
		passed = true
	}
	if !passed {
		return false, nil
	}
	x.first = nil // the header of the first extent that was passed over
	d.ended = d.current == len(d.disks)
	return true, d.jump(ix.Members[len(d.members)])
}

// passDisk takes a disk's members from the index.
func (d *streamReader) passDisk(ix *Index, s *diskState) error {
	d.where = s.rec.File
	if ix.ID != d.opening.ID || !reflect.DeepEqual(ix.Opening, d.opening) || len(ix.Disks) != len(d.disks) {
		return recordError("index", "belongs to backup %q, the stream is %q", ix.ID, d.opening.ID)
	}
	from := min(len(d.members), len(ix.Members))
	n := slices.IndexFunc(ix.Members[from:], func(m *MemberRecord) bool { return m.Name == s.rec.File })
	if n < 0 || from+n+1 >= len(ix.Members) {
		return recordError("index", "disk %s does not end", s.rec.File)
	}
	for _, m := range ix.Members[from : from+n+1] {
		own := *m
		d.members = append(d.members, &own)
	}
	s.next, s.total = s.size, ix.Disks[d.current]
	d.count.Done.Add(s.rec.CapacityBytes)
	d.parts = true
	return nil
}

// jump goes on with the header of a member.
func (d *streamReader) jump(m *MemberRecord) error {
	if m.Tar <= d.tar || m.Frame < 0 {
		return recordError("index", "member %q at %d is not behind what is before it", m.Name, m.Tar)
	}
	if err := d.input.jump(m.Frame); err != nil {
		return err
	}
	d.in, d.seek = d.input.tar(), d.input.skipper()
	d.tar = m.Tar
	d.count.Tar.Store(d.tar)
	return nil
}
