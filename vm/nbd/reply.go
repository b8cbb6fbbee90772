// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/vmstream/vmstream/disk"
)

// request is one that waits for its replies.
type request struct {
	kind   uint16
	off    int64
	length int64
	dst    []byte // of a read
	status func(id uint32, runs []extent) error

	filled []disk.Run // ranges of a read that have come
	chunks int
	err    error // what the server says of it
}

// extent is a range with a state, as a metadata context has them.
type extent struct {
	length int64
	state  uint32
}

// reader takes replies from a connection.
type reader struct {
	r       io.Reader
	pending map[uint64]*request // by cookie
}

// next reads one reply or one chunk of one. An error ends the connection; what
// the server says about a request is kept in that.
func (rd *reader) next() error {
	var h [20]byte
	if _, err := io.ReadFull(rd.r, h[:16]); err != nil {
		return fmt.Errorf("nbd: reply: %w", midway(err))
	}
	cookie := binary.BigEndian.Uint64(h[8:])
	req, ok := rd.pending[cookie]
	if !ok {
		return broken("reply", "cookie %d belongs to no request", cookie)
	}
	switch binary.BigEndian.Uint32(h[:]) {
	case magicStructured:
	case magicSimple: // allowed for errors of all but reads; we send nothing that succeeds this way
		code := binary.BigEndian.Uint32(h[4:])
		if code == 0 || req.kind == cmdRead {
			return broken("reply", "a simple reply to a request of type %d", req.kind)
		}
		req.fail(code, "", -1)
		delete(rd.pending, cookie)
		return nil
	default:
		return broken("reply", "no magic number")
	}
	if _, err := io.ReadFull(rd.r, h[16:]); err != nil {
		return fmt.Errorf("nbd: reply: %w", midway(err))
	}
	flags, kind, n := binary.BigEndian.Uint16(h[4:]), binary.BigEndian.Uint16(h[6:]), binary.BigEndian.Uint32(h[16:])
	if err := rd.chunk(req, kind, int64(n)); err != nil {
		return err
	}
	if flags&replyFlagDone != 0 {
		delete(rd.pending, cookie)
		return req.finish()
	}
	return nil
}

func (rd *reader) chunk(req *request, kind uint16, n int64) error {
	// A read cannot have more chunks of content than sectors, and QEMU sends a few.
	if req.chunks++; int64(req.chunks) > req.length/disk.SectorSize+maxStatusChunks {
		return broken("reply", "more than %d chunks", req.chunks-1)
	}
	switch {
	case kind&replyError != 0:
		return rd.errorChunk(req, kind, n)
	case kind == replyNone && n == 0:
		return nil
	case kind == replyOffsetData && req.kind == cmdRead && n > 8 && n <= 8+req.length:
		return rd.data(req, n-8)
	case kind == replyOffsetHole && req.kind == cmdRead && n == 12:
		return rd.hole(req)
	case kind == replyBlockStatus && req.kind == cmdBlockStatus && n >= 12 && n <= maxStatusReply && (n-4)%8 == 0:
		return rd.blockStatus(req, n)
	}
	return broken("reply", "a chunk of type %d with %d bytes to a request of type %d for %d bytes", kind, n, req.kind, req.length)
}

// place returns where in a read's buffer n bytes at the offset off belong.
func (req *request) place(off uint64, n int64) ([]byte, error) {
	rel := off - uint64(req.off) // wraps below req.off, to more than any length
	if n <= 0 || rel >= uint64(req.length) || n > req.length-int64(rel) {
		return nil, broken("reply", "content of %d bytes at 0x%x, asked for were %d at 0x%x", n, off, req.length, req.off)
	}
	req.filled = append(req.filled, disk.Run{Offset: int64(rel), Length: n})
	return req.dst[rel : int64(rel)+n], nil
}

func (rd *reader) data(req *request, n int64) error {
	var h [8]byte
	if _, err := io.ReadFull(rd.r, h[:]); err != nil {
		return fmt.Errorf("nbd: reply: %w", midway(err))
	}
	dst, err := req.place(binary.BigEndian.Uint64(h[:]), n)
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(rd.r, dst); err != nil {
		return fmt.Errorf("nbd: reply: %w", midway(err))
	}
	return nil
}

func (rd *reader) hole(req *request) error {
	var h [12]byte
	if _, err := io.ReadFull(rd.r, h[:]); err != nil {
		return fmt.Errorf("nbd: reply: %w", midway(err))
	}
	dst, err := req.place(binary.BigEndian.Uint64(h[:]), int64(binary.BigEndian.Uint32(h[8:])))
	if err != nil {
		return err
	}
	clear(dst)
	return nil
}

func (rd *reader) blockStatus(req *request, n int64) error {
	b := make([]byte, n)
	if _, err := io.ReadFull(rd.r, b); err != nil {
		return fmt.Errorf("nbd: reply: %w", midway(err))
	}
	extents := make([]extent, 0, (n-4)/8)
	for p := b[4:]; len(p) > 0; p = p[8:] {
		e := extent{int64(binary.BigEndian.Uint32(p)), binary.BigEndian.Uint32(p[4:])}
		if e.length == 0 {
			return broken("block status", "an extent without length")
		}
		extents = append(extents, e)
	}
	return req.status(binary.BigEndian.Uint32(b), extents)
}

func (rd *reader) errorChunk(req *request, kind uint16, n int64) error {
	if n < 6 || n > maxErrorText+14 {
		return broken("reply", "an error of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(rd.r, b); err != nil {
		return fmt.Errorf("nbd: reply: %w", midway(err))
	}
	code, textLen := binary.BigEndian.Uint32(b), int64(binary.BigEndian.Uint16(b[4:]))
	if textLen > n-6 || code == 0 {
		return broken("reply", "error %d with a text of %d bytes in %d", code, textLen, n)
	}
	off := int64(-1)
	if rest := b[6+textLen:]; kind == replyErrorOffset && len(rest) == 8 && binary.BigEndian.Uint64(rest) < disk.MaxSize {
		off = int64(binary.BigEndian.Uint64(rest))
	}
	req.fail(code, string(b[6:6+textLen]), off)
	return nil
}

func (req *request) fail(code uint32, text string, off int64) {
	if req.err != nil {
		return
	}
	if off < 0 {
		off = req.off
	}
	op := "read"
	if req.kind == cmdBlockStatus {
		op = "block status"
	}
	req.err = &Error{Op: op, Code: code, Text: text, Offset: off}
}

// finish checks that a read is complete: what no chunk filled would be what the
// buffer happened to hold.
func (req *request) finish() error {
	if req.kind != cmdRead || req.err != nil {
		return nil
	}
	slices.SortFunc(req.filled, func(a, b disk.Run) int { return cmp.Compare(a.Offset, b.Offset) })
	end := int64(0)
	for _, r := range req.filled {
		if r.Offset != end {
			return broken("reply", "parts of a read overlap, or one is missing, at 0x%x", req.off+min(end, r.Offset))
		}
		end = r.End()
	}
	if end != req.length {
		return broken("reply", "a read of %d bytes got %d", req.length, end)
	}
	return nil
}
