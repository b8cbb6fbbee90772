// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package sinks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"time"
)

// Backoff says how often and when a call is tried. Fields that are 0 or less have
// defaults: 5 tries, a first pause of 500 ms, at most 30 s.
type Backoff struct {
	Tries      int // with the first one
	First, Max time.Duration
}

func (b Backoff) defaults() Backoff {
	if b.Tries <= 0 {
		b.Tries = 5
	}
	if b.First <= 0 {
		b.First = 500 * time.Millisecond
	}
	if b.Max <= 0 {
		b.Max = 30 * time.Second
	}
	b.Max = max(b.Max, b.First)
	return b
}

// pause returns how long to wait after the given number of failures: it doubles, and
// chance takes up to half of it away so that many clients do not come back together.
func (b Backoff) pause(failures int) time.Duration {
	d := b.First
	for i := 1; i < failures && d < b.Max; i++ {
		d = min(d*2, b.Max)
	}
	return d - rand.N(d/2+1)
}

// do calls f until it succeeds, fails for good, or has had its tries.
func (r *retry) do(ctx context.Context, what, key string, f func() error) error {
	for failures := 1; ; failures++ {
		err := f()
		if err == nil || !errors.Is(err, ErrTransient) {
			return err
		}
		if failures >= r.backoff.Tries {
			return Exhausted(failures, err)
		}
		pause := r.backoff.pause(failures)
		r.log.Warn("will try again", "call", what, "key", key, "pause", pause, "error", err)
		if cause := sleep(ctx, pause); cause != nil {
			return fmt.Errorf("%w, after: %w", cause, err)
		}
	}
}

// exhausted is what is left of an error that was transient: who tries again what was
// tried again already would multiply the tries.
type exhausted struct {
	tries int
	err   error
}

// Exhausted returns an error that is no longer [ErrTransient], but everything else that
// err is, and [ErrExhausted], for a sink that has tried again by itself.
func Exhausted(tries int, err error) error { return &exhausted{tries, err} }

func (e *exhausted) Error() string { return fmt.Sprintf("%d tries: %v", e.tries, e.err) }

// Is reports if the error is of a kind, other than ErrTransient.
func (e *exhausted) Is(target error) bool {
	return target == ErrExhausted || target != ErrTransient && errors.Is(e.err, target)
}

// As finds an error of a type.
func (e *exhausted) As(target any) bool { return errors.As(e.err, target) }

type retry struct {
	Sink
	backoff Backoff
	log     *slog.Logger
}

// Retry returns a sink that repeats calls to s whose errors are [ErrTransient]:
// Create, Open, OpenAt and its reads, Stat, List, and Delete. A reader from Open that
// breaks goes on where it was, if s reads ranges and the object has the same
// Version. What writers do is not repeated: their bytes are gone. log may be nil.
func Retry(s Sink, b Backoff, log *slog.Logger) Sink {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &retry{Sink: s, backoff: b.defaults(), log: log}
}

func (r *retry) Create(ctx context.Context, key string, o CreateOptions) (w Writer, err error) {
	err = r.do(ctx, "create", key, func() error {
		w, err = r.Sink.Create(ctx, key, o)
		return err
	})
	return w, err
}

func (r *retry) Stat(ctx context.Context, key string) (info Info, err error) {
	err = r.do(ctx, "stat", key, func() error {
		info, err = r.Sink.Stat(ctx, key)
		return err
	})
	return info, err
}

// Delete takes an object that is gone after a failed try as deleted by that try.
func (r *retry) Delete(ctx context.Context, key string) error {
	again := false
	return r.do(ctx, "delete", key, func() error {
		err := r.Sink.Delete(ctx, key)
		if again && errors.Is(err, ErrNotExist) {
			return nil
		}
		again = true
		return err
	})
}

// List begins again where it broke and leaves out what it has told already.
func (r *retry) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		last, any, stopped := "", false, false
		err := r.do(ctx, "list", prefix, func() error {
			for info, err := range r.Sink.List(ctx, prefix) {
				if err != nil {
					return err
				}
				if any && info.Key <= last {
					continue
				}
				last, any = info.Key, true
				if !yield(info, nil) {
					stopped = true
					return nil
				}
			}
			return nil
		})
		if err != nil && !stopped {
			yield(Info{}, err)
		}
	}
}

func (r *retry) OpenAt(ctx context.Context, key string) (RangeReader, error) {
	reader, err := r.openAt(ctx, key)
	if err != nil {
		return nil, err
	}
	return &retryRange{RangeReader: reader, ctx: ctx, retry: r}, nil
}

func (r *retry) openAt(ctx context.Context, key string) (reader RangeReader, err error) {
	err = r.do(ctx, "open", key, func() error {
		reader, err = r.Sink.OpenAt(ctx, key)
		return err
	})
	return reader, err
}

type retryRange struct {
	RangeReader
	ctx   context.Context
	retry *retry
}

func (r *retryRange) ReadAt(p []byte, offset int64) (n int, err error) {
	err = r.retry.do(r.ctx, "read", r.Info().Key, func() error {
		n, err = r.RangeReader.ReadAt(p, offset)
		return err
	})
	return n, err
}

func (r *retry) Open(ctx context.Context, key string) (reader io.ReadCloser, info Info, err error) {
	err = r.do(ctx, "open", key, func() error {
		reader, info, err = r.Sink.Open(ctx, key)
		return err
	})
	if err != nil {
		return nil, Info{}, err
	}
	return &retryReader{ctx: ctx, retry: r, key: key, info: info, reader: reader}, info, nil
}

// retryReader is a sequential reader that is opened again where it broke.
type retryReader struct {
	ctx      context.Context
	retry    *retry
	key      string
	info     Info
	reader   io.ReadCloser
	offset   int64
	failures int // since the last byte
	err      error
}

func (r *retryReader) Read(p []byte) (int, error) {
	for {
		if r.err != nil {
			return 0, r.err
		}
		n, err := r.reader.Read(p)
		r.offset += int64(n)
		if n > 0 {
			r.failures = 0
		}
		if err == io.EOF && r.offset < r.info.SizeBytes {
			err = fmt.Errorf("ends at byte %d of %d: %w", r.offset, r.info.SizeBytes, io.ErrUnexpectedEOF)
		}
		if err != nil {
			r.err = r.again(err)
		}
		if n > 0 || len(p) == 0 {
			return n, nil
		}
	}
}

// again opens the object at the offset if err may go away by that.
func (r *retryReader) again(err error) error {
	if !errors.Is(err, ErrTransient) || !r.retry.Capabilities().Range || r.info.Version == "" {
		return err
	}
	r.failures++
	if r.failures >= r.retry.backoff.Tries {
		return fmt.Errorf("at byte %d: %w", r.offset, Exhausted(r.failures, err))
	}
	pause := r.retry.backoff.pause(r.failures)
	r.retry.log.Warn("will read on", "key", r.key, "offset", r.offset, "pause", pause, "error", err)
	if cause := sleep(r.ctx, pause); cause != nil {
		return fmt.Errorf("%w, after: %w", cause, err)
	}
	next, openErr := r.retry.openAt(r.ctx, r.key)
	if openErr != nil {
		return fmt.Errorf("open at byte %d: %w, after: %w", r.offset, openErr, err)
	}
	if now := next.Info(); now.Version != r.info.Version || now.SizeBytes != r.info.SizeBytes {
		_ = next.Close()
		return fmt.Errorf("%s has changed while it was read, at byte %d", r.key, r.offset)
	}
	_ = r.reader.Close() // broken
	r.reader = &rangeTail{RangeReader: next, offset: r.offset}
	return nil
}

func (r *retryReader) Close() error { return r.reader.Close() }

// rangeTail reads a RangeReader in order, from an offset.
type rangeTail struct {
	RangeReader
	offset int64
}

func (t *rangeTail) Read(p []byte) (int, error) {
	n, err := t.ReadAt(p, t.offset)
	t.offset += int64(n)
	return n, err
}
