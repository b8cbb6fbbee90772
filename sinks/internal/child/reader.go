// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Reader reads the stdout of a program.
type Reader struct {
	ctx  context.Context //nolint:containedctx // it bounds the reading
	p    *Process
	stop func() bool
	eof  bool
}

// NewReader returns a reader of the program's stdout, which gives io.EOF only when the
// program has ended with status 0. Close ends the program.
func NewReader(ctx context.Context, p *Process) *Reader {
	stop := context.AfterFunc(ctx, func() { _ = p.Stdout.SetReadDeadline(time.Unix(1, 0)) })
	return &Reader{ctx: ctx, p: p, stop: stop}
}

func (r *Reader) Read(b []byte) (int, error) {
	n, err := r.p.Stdout.Read(b)
	switch {
	case err == nil:
		return n, nil
	case r.ctx.Err() != nil:
		return n, fmt.Errorf("%s: %w", r.p.name, context.Cause(r.ctx))
	case !errors.Is(err, io.EOF):
		return n, err
	}
	if err := r.p.Wait(r.ctx); err != nil {
		return n, err
	}
	r.eof = true
	return n, io.EOF
}

// Close ends the program if it has not ended.
func (r *Reader) Close() error {
	r.stop()
	r.p.Kill()
	err := r.p.Stdout.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
