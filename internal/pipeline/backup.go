// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"context"
	"io"

	"github.com/vmstream/vmstream/stream"
)

// Backup writes src to w as o says. Name and Consistency come from the source
// unless o has them.
func Backup(ctx context.Context, w io.Writer, src *Source, o stream.Options) (*stream.Result, error) {
	o.Name = src.Name
	if o.Consistency == "" {
		o.Consistency = src.Consistency
	}
	return stream.Write(ctx, &cancelWriter{ctx: ctx, w: w}, src.Disks, src.Files, o)
}

// cancelWriter returns from a write that hangs once the context is done: who
// reads a pipe may have stopped reading without closing it.
type cancelWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c *cancelWriter) Write(p []byte) (int, error) {
	return abandon(c.ctx, func() (int, error) { return c.w.Write(p) })
}

// cancelReader is the same for reading.
type cancelReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancelReader) Read(p []byte) (int, error) {
	return abandon(c.ctx, func() (int, error) { return c.r.Read(p) })
}

// abandon runs do and leaves it behind when the context ends first. The
// process is about to exit then.
func abandon(ctx context.Context, do func() (int, error)) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, context.Cause(ctx)
	}
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := do()
		done <- result{n, err}
	}()
	select {
	case r := <-done:
		return r.n, r.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// Input returns r as a stream's input that a cancelled context interrupts.
func Input(ctx context.Context, r io.Reader) io.Reader { return &cancelReader{ctx: ctx, r: r} }
