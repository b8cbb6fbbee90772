// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"encoding/hex"
	"io"
	"reflect"

	"github.com/vmstream/vmstream/disk"
)

// readEnd reads SHA256SUMS, the index, the end of the tar and of the input.
func (d *streamReader) readEnd() (*Result, error) {
	m, n, err := d.header()
	if err != nil {
		return nil, err
	}
	want := sums(d.members)
	if m == nil || m.name != SumsName {
		return nil, recordError("stream", "%s does not follow the last disk", SumsName)
	}
	if !d.opt.NoDigests && m.size != int64(len(want)) || m.size > maxSums(len(d.members)) {
		return nil, recordError(SumsName, "is %d bytes long, %d fit the members", m.size, len(want))
	}
	got, err := d.content(m, n)
	if err != nil {
		return nil, err
	}
	if !d.opt.NoDigests && !bytes.Equal(got, want) {
		return nil, digestError(d.members, got)
	}
	d.begin(m, d.tar-n-m.size-padding(m.size), got)
	return d.readIndex()
}

func maxSums(members int) int64 { return int64(members)*(64+2+maxNameBytes+1) + 1 }

// digestError names the first member whose digest is not the one in SHA256SUMS.
func digestError(members []*MemberRecord, got []byte) error {
	lines := bytes.Split(got, []byte{'\n'})
	for i := range members {
		if i >= len(lines) || string(lines[i]) != members[i].SHA256+"  "+members[i].Name {
			return recordError(members[i].Name, "its content does not have the digest in %s", SumsName)
		}
	}
	return recordError(SumsName, "does not list the members of this stream")
}

func (d *streamReader) readIndex() (*Result, error) {
	at := d.tar
	m, n, err := d.header()
	if err != nil {
		return nil, err
	}
	if m == nil || m.name != IndexName {
		return nil, recordError("stream", "%s does not follow %s", IndexName, SumsName)
	}
	// Nothing but its own sum covers this header, so it has no choice.
	if m.mode != fileMode || m.modTime.Unix() != d.opening.Created.Unix() {
		return nil, recordError(IndexName, "mode %o and time %v are not those of this stream", m.mode, m.modTime)
	}
	// Members and warnings have long names at worst; frames are 1 MiB of tar.
	most := int64(1<<20) + 2*d.members[0].Size + 4096*int64(len(d.members)+len(d.opening.Files)) + at>>15 + d.opening.trackBound()
	if m.size > most {
		return nil, recordError(IndexName, "is %d bytes long", m.size)
	}
	b, err := d.content(m, n)
	if err != nil {
		return nil, err
	}
	ix, err := ParseIndex(b, at)
	if err != nil {
		return nil, err
	}
	if err := d.checkIndex(ix); err != nil {
		return nil, err
	}
	if err := d.readTail(ix, at); err != nil {
		return nil, err
	}
	return &Result{Opening: d.opening, Index: ix, Warnings: ix.Warnings, TarBytes: d.tar, IndexJSON: b}, nil
}

func (d *streamReader) checkIndex(ix *Index) error {
	sumsMember := d.members[len(d.members)-1]
	if ix.ID != d.opening.ID || !reflect.DeepEqual(ix.Opening, d.opening) {
		return recordError("index", "belongs to backup %q, the stream is %q", ix.ID, d.opening.ID)
	}
	if err := ix.sameMembers(d.members); err != nil {
		return err
	}
	if !d.parts && ix.HeadersDigest != hex.EncodeToString(d.headers.Sum(nil)) {
		return recordError("index", "the headers of the members are not those that were written")
	}
	if ix.SumsDigest != ix.Members[len(ix.Members)-1].SHA256 || !d.opt.NoDigests && ix.SumsDigest != sumsMember.SHA256 {
		return recordError("index", "digest of %s differs", SumsName)
	}
	if len(ix.Disks) != len(d.disks) {
		return recordError("index", "has %d disks, the stream %d", len(ix.Disks), len(d.disks))
	}
	for i := range ix.Disks {
		want, got := d.disks[i].total, ix.Disks[i]
		want.ReadBytes, want.OutBytes = got.ReadBytes, got.OutBytes // known to the writer only
		if got != want {
			return recordError("index", "totals of disk %q do not fit the stream", got.Key)
		}
	}
	return nil
}

// readTail reads the end blocks and makes sure that nothing follows. The index
// began at the offset indexTar.
func (d *streamReader) readTail(ix *Index, indexTar int64) error {
	d.where = "end of the tar"
	var b [endBlocks]byte
	if _, err := io.ReadFull(d.in, b[:]); err != nil {
		return eofUnexpected(err)
	}
	if !disk.IsZero(b[:]) {
		return recordError("end of stream", "the end blocks are not zero")
	}
	d.passed(endBlocks)
	frames, more, err := d.input.end()
	if err != nil {
		return err
	}
	if d.more = more; more && !d.input.series {
		return recordError("end of stream", "bytes follow the end of the tar")
	}
	if p := frames.Pointer(); p != nil && (p.TarBytes != d.tar || p.IndexTar != indexTar) {
		return recordError("end of stream", "the pointer says %d bytes of tar with the index at %d, there are %d with it at %d", p.TarBytes, p.IndexTar, d.tar, indexTar)
	}
	if d.parts {
		return nil
	}
	return ix.sameFrames(frames)
}
