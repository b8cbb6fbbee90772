// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package exec

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/internal/child"
)

// errLate is the cause when the command takes too long after the end of its input.
var errLate = errors.New("it has not ended in time after the end of its input and was killed")

type writer struct {
	ctx     context.Context //nolint:containedctx // it bounds the writing
	p       *child.Process
	key     string
	timeout time.Duration
	written int64
	ended   bool
	failed  error
}

func (w *writer) Write(b []byte) (int, error) {
	switch {
	case w.failed != nil:
		return 0, w.failed
	case w.ended:
		return 0, errors.New("exec: the writer has ended")
	}
	n, err := w.p.Feed(w.ctx, b)
	w.written += int64(n)
	w.failed = err
	return n, err
}

// Commit gives the command the end of its input, and waits for it.
func (w *writer) Commit(ctx context.Context, end sinks.End) (sinks.Info, error) {
	var err error
	switch {
	case w.ended:
		return sinks.Info{}, errors.New("exec: the writer has ended")
	case w.failed != nil:
		err = w.failed
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case w.ctx.Err() != nil:
		err = context.Cause(w.ctx)
	case end.SizeBytes != w.written:
		err = fmt.Errorf("exec: %d bytes written, and there should be %d: %w", w.written, end.SizeBytes, sinks.ErrShort)
	}
	if err != nil {
		w.kill()
		return sinks.Info{}, err
	}
	w.ended = true
	if err := w.finish(ctx); err != nil {
		return sinks.Info{}, err
	}
	return sinks.Info{Key: w.key, SizeBytes: w.written}, nil
}

func (w *writer) finish(ctx context.Context) error {
	if w.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, w.timeout, errLate)
		defer cancel()
	}
	early := w.p.Ended() // it has not seen the end of its input
	unread, err := w.p.CloseStdin()
	werr := w.p.Wait(ctx)
	if !w.p.Ended() {
		w.p.Kill()
		werr = fmt.Errorf("%w: %w", werr, sinks.ErrUnknown) // it had everything
	}
	left, rerr := unread()
	err = errors.Join(werr, err, rerr)
	switch {
	case err != nil:
	case left > 0:
		err = fmt.Errorf("%w: %d bytes were left", w.p.Early(), left)
	case early:
		err = w.p.Early()
	}
	return err
}

// Abort ends the command. Its input stays open until it is dead.
func (w *writer) Abort(context.Context) error {
	if !w.ended {
		w.kill()
	}
	return nil
}

func (w *writer) kill() {
	w.ended = true
	w.p.Kill()
	_ = w.p.Stdin.Close()
}
