// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/minio/minio-go/v7"

	"github.com/vmstream/vmstream/sinks"
)

var errChanged = errors.New("the object has changed while it was read")

// get asks for length bytes of an object from an offset; a length of 0 asks for
// all of it, and for the object as it is then. Otherwise it must be of the version.
func (s *sink) get(ctx context.Context, key, version string, off, length, size int64) (io.ReadCloser, minio.ObjectInfo, error) {
	o := minio.GetObjectOptions{ServerSideEncryption: s.customerKey()}
	if version != "" {
		if err := errors.Join(o.SetMatchETag(version), o.SetRange(off, off+length-1)); err != nil {
			return nil, minio.ObjectInfo{}, err
		}
	}
	answer := &want{object: true}
	body, info, header, err := s.core.GetObject(wanting(ctx, answer), s.bucket, key, o)
	switch {
	case minio.ToErrorResponse(err).StatusCode == http.StatusPreconditionFailed:
		return nil, info, errChanged
	case err != nil:
		return nil, info, err
	case version == "":
		if info.Size < 0 || info.ETag == "" || header.Get("Content-Range") != "" {
			err = wrong("no length, no ETag, or a range that was not asked for")
		}
	case info.ETag != version:
		err = errChanged
	case info.Size != length || header.Get("Content-Range") != fmt.Sprintf("bytes %d-%d/%d", off, off+length-1, size):
		err = wrong("%d bytes of range %.100q, not bytes %d-%d/%d", info.Size, header.Get("Content-Range"), off, off+length-1, size)
	}
	if err != nil {
		return nil, info, errors.Join(err, body.Close())
	}
	answer.release()
	return body, info, nil
}

// Open reads the object from one request as long as that lasts, and goes on with
// another one where it breaks, if the object is still the same.
func (s *sink) Open(ctx context.Context, key string) (io.ReadCloser, sinks.Info, error) {
	if err := checkKey(key); err != nil {
		return nil, sinks.Info{}, err
	}
	r := &reader{ctx: ctx, sink: s, key: key}
	err := s.try(ctx, "reading", key, func(int) error {
		body, info, err := s.get(ctx, key, "", 0, 0, 0)
		if err == nil {
			r.body, r.info = body, infoOf(key, info)
		}
		return err
	})
	if err != nil {
		return nil, sinks.Info{}, err
	}
	return r, r.info, nil
}

// reader is an object from its first byte to its last.
type reader struct {
	ctx    context.Context
	sink   *sink
	key    string
	info   sinks.Info
	off    int64
	body   io.ReadCloser // nil after it broke
	err    error
	broken int // times since something was read
}

func (r *reader) Read(p []byte) (int, error) {
	for r.err == nil {
		if r.off == r.info.SizeBytes {
			return 0, io.EOF
		}
		if len(p) == 0 {
			return 0, nil
		}
		if r.body == nil {
			r.err = r.reopen()
			continue
		}
		n, err := r.body.Read(p[:min(int64(len(p)), r.info.SizeBytes-r.off)])
		r.off += int64(n)
		if n > 0 {
			r.broken = 0
		}
		if err != nil && r.off < r.info.SizeBytes {
			r.broke(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, r.err
}

// broke puts the body away and says if that is final.
func (r *reader) broke(err error) {
	_ = r.body.Close()
	r.body = nil
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	fault := r.sink.fault(r.ctx, "reading", r.key, err)
	switch r.broken++; {
	case !errors.Is(fault, sinks.ErrTransient):
		r.err = fault
		return
	case r.broken >= r.sink.backoff.Tries:
		r.err = sinks.Exhausted(r.broken, fault)
		return
	}
	r.sink.log.Warn("goes on reading", "key", r.key, "offset", r.off, "error", fault)
}

func (r *reader) reopen() error {
	return r.sink.try(r.ctx, "reading", r.key, func(int) error {
		body, _, err := r.sink.get(r.ctx, r.key, r.info.Version, r.off, r.info.SizeBytes-r.off, r.info.SizeBytes)
		if err == nil {
			r.body = body
		}
		return err
	})
}

func (r *reader) Close() error {
	if r.err == nil {
		r.err = errors.New("s3: reading after Close")
	}
	if r.body == nil {
		return nil
	}
	body := r.body
	r.body = nil
	return body.Close()
}

func (s *sink) OpenAt(ctx context.Context, key string) (sinks.RangeReader, error) {
	info, err := s.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	return &ranges{ctx: ctx, cancel: cancel, sink: s, info: info}, nil
}

// ranges is an object that is read by ranges, each with a request of its own.
type ranges struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	sink   *sink
	info   sinks.Info
}

func (r *ranges) Info() sinks.Info { return r.info }

func (r *ranges) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("s3: a negative offset")
	}
	want := max(min(int64(len(p)), r.info.SizeBytes-off), 0)
	if want > 0 {
		if n, err := r.read(p[:want], off); err != nil {
			return n, err
		}
	}
	if want < int64(len(p)) {
		return int(want), io.EOF
	}
	return int(want), nil
}

func (r *ranges) read(p []byte, off int64) (n int, err error) {
	err = r.sink.try(r.ctx, "reading", r.info.Key, func(int) error {
		at, length := off+int64(n), int64(len(p)-n)
		body, _, err := r.sink.get(r.ctx, r.info.Key, r.info.Version, at, length, r.info.SizeBytes)
		if err != nil {
			return err
		}
		m, err := io.ReadFull(body, p[n:])
		n += m
		return errors.Join(err, body.Close())
	})
	return n, err
}

func (r *ranges) Close() error {
	r.cancel(errors.New("s3: reading after Close"))
	return nil
}
