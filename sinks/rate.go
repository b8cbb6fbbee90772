// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package sinks

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// rateBurst is how far a Rate lets its users get ahead after a pause.
const rateBurst = 100 * time.Millisecond

// Rate is a number of bytes per second that several writers share.
type Rate struct {
	bytesPerSecond int64

	mu   sync.Mutex
	next time.Time // when all that was let through so far is due
	rest int64     // parts of a nanosecond that next lacks, in 1/bytesPerSecond
}

// NewRate returns a rate; one of 0 or less bounds nothing.
func NewRate(bytesPerSecond int64) *Rate { return &Rate{bytesPerSecond: bytesPerSecond} }

// pieceBytes is how much is let through at a time, so that the bytes flow evenly.
func (r *Rate) pieceBytes() int {
	return int(min(max(r.bytesPerSecond/20, 1), 1<<20))
}

// wait returns when n more bytes may go, or when ctx ends.
func (r *Rate) wait(ctx context.Context, n int) error {
	r.mu.Lock()
	now := time.Now()
	if earliest := now.Add(-rateBurst); r.next.Before(earliest) {
		r.next, r.rest = earliest, 0
	}
	// What is rounded off is kept: over hours it would add up.
	parts := int64(n)*int64(time.Second) + r.rest
	r.next = r.next.Add(time.Duration(parts / r.bytesPerSecond))
	r.rest = parts % r.bytesPerSecond
	pause := r.next.Sub(now)
	r.mu.Unlock()
	return sleep(ctx, pause)
}

// sleep returns the cause when ctx ends before the time is over.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

type limited struct {
	Writer
	ctx  context.Context
	rate *Rate
}

// LimitRate returns a writer that lets no more than r through to w. When ctx ends,
// Write fails.
func LimitRate(ctx context.Context, w Writer, r *Rate) Writer {
	if r == nil || r.bytesPerSecond <= 0 {
		return w
	}
	return &limited{Writer: w, ctx: ctx, rate: r}
}

func (l *limited) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		piece := p[done:min(len(p), done+l.rate.pieceBytes())]
		if err := l.rate.wait(l.ctx, len(piece)); err != nil {
			return done, err
		}
		n, err := writeAll(l.Writer, piece)
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// writeAll makes an error of a write that takes less than it was given.
func writeAll(w io.Writer, p []byte) (int, error) {
	n, err := w.Write(p)
	if n < 0 || n > len(p) {
		n = 0
	}
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}

// Counters count the bytes of one or several writers.
type Counters struct {
	Written atomic.Int64 // taken by Write
	Stored  atomic.Int64 // of objects that were committed
}

type counted struct {
	Writer
	n *Counters
}

// Count returns a writer that counts what goes to w.
func Count(w Writer, n *Counters) Writer { return &counted{Writer: w, n: n} }

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n.Written.Add(int64(n))
	return n, err
}

func (c *counted) Commit(ctx context.Context, end End) (Info, error) {
	info, err := c.Writer.Commit(ctx, end)
	if err == nil {
		c.n.Stored.Add(end.SizeBytes)
	}
	return info, err
}
