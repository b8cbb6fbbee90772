// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package sinkcheck checks that a sink keeps the contract of package sinks.
package sinkcheck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/vmstream/vmstream/sinks"
)

// Check is the outcome of one check.
type Check struct {
	Name    string
	Skipped bool // the sink does not claim what it checks
	Err     error
}

const checkTime = 2 * time.Minute

type run struct {
	sink sinks.Sink
	key  string
}

type check struct {
	name  string
	needs func(sinks.Capabilities) bool
	run   func(context.Context, run) error
}

func reads(c sinks.Capabilities) bool { return c.Read && c.Delete }

var checks = []check{
	{"invisible before commit", func(c sinks.Capabilities) bool { return c.Stat && c.Atomic }, invisible},
	{"whole after commit", reads, whole},
	{"abort leaves nothing", func(c sinks.Capabilities) bool { return c.Stat && c.Atomic }, aborted},
	{"no overwrite unasked", reads, exists},
	{"wrong length refused", func(c sinks.Capabilities) bool { return c.Stat && c.Atomic }, wrongLength},
}

// Verify runs all checks with keys below prefix and reports each. The error joins
// those of the checks.
func Verify(ctx context.Context, s sinks.Sink, prefix string, report func(Check)) error {
	var all []error
	for i, c := range checks {
		done := Check{Name: c.name, Skipped: !c.needs(s.Capabilities())}
		if !done.Skipped {
			bounded, cancel := context.WithTimeout(ctx, checkTime)
			r := run{sink: s, key: fmt.Sprintf("%scheck-%d-%d", prefix, time.Now().UnixNano(), i)}
			done.Err = c.run(bounded, r)
			if s.Capabilities().Delete {
				if err := s.Delete(bounded, r.key); err != nil && !errors.Is(err, sinks.ErrNotExist) {
					done.Err = errors.Join(done.Err, err)
				}
			}
			cancel()
		}
		if done.Err != nil {
			all = append(all, fmt.Errorf("%s: %w", c.name, done.Err))
		}
		report(done)
	}
	return errors.Join(all...)
}

func (r run) create(ctx context.Context, content []byte, o sinks.CreateOptions) (sinks.Writer, error) {
	w, err := r.sink.Create(ctx, r.key, o)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, errors.Join(err, w.Abort(ctx))
	}
	return w, nil
}

func (r run) absent(ctx context.Context) error {
	if _, err := r.sink.Stat(ctx, r.key); !errors.Is(err, sinks.ErrNotExist) {
		return fmt.Errorf("Stat gives %v, not ErrNotExist", err)
	}
	return nil
}

func invisible(ctx context.Context, r run) error {
	w, err := r.create(ctx, []byte("early"), sinks.CreateOptions{})
	if err != nil {
		return err
	}
	return errors.Join(r.absent(ctx), w.Abort(ctx))
}

func aborted(ctx context.Context, r run) error {
	w, err := r.create(ctx, []byte("given up"), sinks.CreateOptions{})
	if err != nil {
		return err
	}
	return errors.Join(w.Abort(ctx), w.Abort(ctx), r.absent(ctx))
}

func (r run) has(ctx context.Context, want []byte) error {
	reader, _, err := r.sink.Open(ctx, r.key)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(io.LimitReader(reader, int64(len(want))+1))
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%d bytes come back that differ from the %d written", len(got), len(want))
	}
	return errors.Join(err, reader.Close())
}

func whole(ctx context.Context, r run) error {
	for _, size := range []int{0, 1, 5<<20 - 1, 5<<20 + 1, 17 << 20} {
		content := bytes.Repeat([]byte("vmstream "), size/9+1)[:size]
		w, err := r.create(ctx, content, sinks.CreateOptions{Overwrite: true})
		if err != nil {
			return err
		}
		if _, err := w.Commit(ctx, sinks.End{SizeBytes: int64(size)}); err != nil {
			return err
		}
		if err := errors.Join(w.Abort(ctx), r.has(ctx, content)); err != nil {
			return fmt.Errorf("object of %d bytes: %w", size, err)
		}
	}
	return nil
}

func exists(ctx context.Context, r run) error {
	w, err := r.create(ctx, []byte("first"), sinks.CreateOptions{})
	if err != nil {
		return err
	}
	if _, err := w.Commit(ctx, sinks.End{SizeBytes: 5}); err != nil {
		return err
	}
	w, err = r.create(ctx, []byte("second"), sinks.CreateOptions{})
	if err == nil {
		_, err = w.Commit(ctx, sinks.End{SizeBytes: 6})
	}
	if !errors.Is(err, sinks.ErrExists) {
		return fmt.Errorf("a second object under the key gives %v, not ErrExists", err)
	}
	return r.has(ctx, []byte("first"))
}

func wrongLength(ctx context.Context, r run) error {
	for _, size := range []int64{4, 6} {
		w, err := r.create(ctx, []byte("12345"), sinks.CreateOptions{})
		if err != nil {
			return err
		}
		if _, err := w.Commit(ctx, sinks.End{SizeBytes: size}); err == nil {
			return fmt.Errorf("5 bytes are committed as %d", size)
		}
		if err := errors.Join(w.Abort(ctx), r.absent(ctx)); err != nil {
			return err
		}
	}
	return nil
}
