// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream/codec"
)

// FindIndex reads the opening record and, from its end, the end record of a
// stream of size bytes, and nothing between them. It tells what a stream says
// of itself; only Read proves it.
func FindIndex(r io.ReaderAt, size int64) (*Result, error) {
	opening, name, err := findOpening(r, size)
	if err != nil {
		return nil, atEnd(err)
	}
	at, in, err := indexReader(r, size, name)
	if err != nil {
		return nil, atEnd(err)
	}
	defer in.Close()
	m, _, err := readHeader(in)
	if err != nil {
		return nil, atEnd(err)
	}
	if m == nil || m.name != opening.Name+"/"+IndexName || m.size > 16<<20+size>>5+opening.trackBound() {
		return nil, recordError("end of stream", "there is no index where its pointer says")
	}
	b, err := readWhole(in, m.size)
	if err != nil {
		return nil, atEnd(err)
	}
	ix, err := ParseIndex(b, at)
	if err != nil {
		return nil, err
	}
	if ix.ID != opening.ID || len(ix.Disks) != len(opening.Disks) {
		return nil, recordError("index", "belongs to another backup than the opening record")
	}
	res := &Result{Opening: opening, Index: ix, Warnings: ix.Warnings, OutBytes: size, IndexJSON: b}
	if _, err := fmt.Sscanf(ix.End.Tar, "%d", &at); err != nil {
		return nil, recordError("end record", "tar_offset %q", ix.End.Tar)
	}
	res.TarBytes = at + blockSize + m.size + endBlocks
	return res, nil
}

// atEnd turns the end of the file into damage.
func atEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &disk.FormatError{Format: "stream", Field: "end of stream", Offset: -1, Err: disk.ErrTruncated, Detail: "it is too short to be a whole backup"}
	}
	return err
}

// findOpening reads the first member. It also returns the stream's codec.
func findOpening(r io.ReaderAt, size int64) (*Opening, string, error) {
	cr, err := codec.NewReader(io.NewSectionReader(r, 0, size), 1)
	if err != nil {
		return nil, "", err
	}
	defer cr.Close()
	m, _, err := readHeader(cr)
	if err != nil {
		return nil, "", err
	}
	if m == nil || m.size > maxOpeningSize {
		return nil, "", recordError("first member", "this is no vmstream stream")
	}
	b := make([]byte, m.size)
	if _, err := io.ReadFull(cr, b); err != nil {
		return nil, "", err
	}
	o, err := ParseOpening(b)
	if err != nil {
		return nil, "", err
	}
	if m.name != o.Name+"/"+OpeningName {
		return nil, "", recordError("first member", "is called %q", m.name)
	}
	return o, cr.Codec(), nil
}

// indexReader returns the tar from the header of the index on, and the offset
// of that in the tar, or -1 if it is not known yet.
func indexReader(r io.ReaderAt, size int64, name string) (int64, io.ReadCloser, error) {
	if name != codec.None {
		frame, err := codec.FindIndexFrame(r, size, name)
		if err != nil {
			return 0, nil, err
		}
		cr, err := codec.NewReader(io.NewSectionReader(r, frame, size-frame), 1)
		return -1, cr, err
	}
	at, err := findEndRecord(r, size)
	return at, io.NopCloser(io.NewSectionReader(r, at, size-at)), err
}

// findEndRecord reads the third block from the end of a tar: it says where the
// index is.
func findEndRecord(r io.ReaderAt, size int64) (int64, error) {
	var b [blockSize + endBlocks]byte
	if size < int64(len(b)) {
		return 0, io.ErrUnexpectedEOF
	}
	if err := disk.ReadFull(r, b[:], size-int64(len(b))); err != nil {
		return 0, err
	}
	missing := recordError("end of stream", "the end record is missing: the stream is cut, or nothing that vmstream wrote")
	inner, ok := bytes.CutPrefix(b[:blockSize], []byte(`"end":`))
	if !ok || !bytes.HasSuffix(inner, []byte("}\n")) || !disk.IsZero(b[blockSize:]) {
		return 0, missing
	}
	var e endRecord
	if json.Unmarshal(inner[:len(inner)-2], &e) != nil {
		return 0, missing
	}
	var at int64
	if _, err := fmt.Sscanf(e.Tar, "%d", &at); err != nil || at < 0 || at > size-int64(len(b)) {
		return 0, missing
	}
	return at, nil
}
