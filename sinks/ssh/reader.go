// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package ssh

import (
	"context"
	"fmt"
	"io"

	"github.com/vmstream/vmstream/sinks"
)

const blockBytes = 64 << 10

// Open reads an object over one connection.
func (s *sink) Open(ctx context.Context, key string) (io.ReadCloser, sinks.Info, error) {
	if err := checkKey(key); err != nil {
		return nil, sinks.Info{}, err
	}
	c, err := s.call(ctx, false, getScript, key)
	if err != nil {
		return nil, sinks.Info{}, err
	}
	said, err := c.answer()
	var info sinks.Info
	if err == nil {
		info, err = told(key, said)
	}
	if err != nil {
		c.end()
		return nil, info, err
	}
	return &reader{c: c, key: key, left: info.SizeBytes}, info, nil
}

type reader struct {
	c    *call
	key  string
	left int64
}

func (r *reader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := r.c.r.Read(b)
	if r.left -= int64(n); r.left < 0 {
		return 0, fmt.Errorf("ssh: %s became longer while it was read", r.key)
	}
	switch {
	case err == nil:
		return n, nil
	case err != io.EOF || r.c.ctx.Err() != nil: //nolint:errorlint // of a file
		return n, r.c.failed(err)
	}
	if err := r.c.p.Wait(r.c.ctx); err != nil {
		return n, r.c.failed(io.EOF)
	}
	if r.left > 0 {
		return n, fmt.Errorf("ssh: %s: %d bytes are missing: %w", r.key, r.left, io.ErrUnexpectedEOF)
	}
	return n, io.EOF
}

func (r *reader) Close() error {
	r.c.end()
	return nil
}

// OpenAt reads an object with a connection for each range.
func (s *sink) OpenAt(ctx context.Context, key string) (sinks.RangeReader, error) {
	info, err := s.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	return &ranges{ctx: ctx, s: s, info: info}, nil
}

type ranges struct {
	ctx  context.Context //nolint:containedctx // it bounds the reading
	s    *sink
	info sinks.Info
}

func (r *ranges) Info() sinks.Info { return r.info }
func (r *ranges) Close() error     { return nil }

// ReadAt reads whole blocks on the other end and drops what is not of the range.
func (r *ranges) ReadAt(b []byte, off int64) (int, error) {
	switch {
	case off < 0:
		return 0, fmt.Errorf("ssh: %s: offset %d", r.info.Key, off)
	case len(b) == 0:
		return 0, nil
	case off >= r.info.SizeBytes:
		return 0, io.EOF
	}
	want := b[:min(int64(len(b)), r.info.SizeBytes-off)]
	first, last := off/blockBytes, (off+int64(len(want))-1)/blockBytes
	c, err := r.s.call(r.ctx, false, rangeScript, r.info.Key, fmt.Sprint(first), fmt.Sprint(last-first+1))
	if err != nil {
		return 0, err
	}
	defer c.end()
	said, err := c.answer()
	if err != nil {
		return 0, err
	}
	now, err := told(r.info.Key, said)
	if err != nil {
		return 0, err
	}
	if now.Version != r.info.Version {
		return 0, fmt.Errorf("ssh: %s has changed since it was opened", r.info.Key)
	}
	if _, err := io.CopyN(io.Discard, c.r, off-first*blockBytes); err != nil {
		return 0, c.failed(err)
	}
	n, err := io.ReadFull(c.r, want)
	if err != nil {
		if err == io.ErrUnexpectedEOF { //nolint:errorlint // of ReadFull
			err = io.EOF
		}
		return n, c.failed(err)
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
