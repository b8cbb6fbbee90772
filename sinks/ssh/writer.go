// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package ssh

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"

	"github.com/vmstream/vmstream/sinks"
)

// Create begins a file beside the object.
func (s *sink) Create(ctx context.Context, key string, o sinks.CreateOptions) (sinks.Writer, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	if o.Keep || o.Resume {
		return nil, fmt.Errorf("ssh: keep and resume: %w", sinks.ErrUnsupported)
	}
	w := &writer{s: s, key: key, part: part(key, rand.Text())}
	if !o.Overwrite {
		w.exclusive = "1"
	}
	c, err := s.call(ctx, true, putScript, key, s.root+w.part, w.exclusive)
	if err != nil {
		return nil, err
	}
	said, err := c.answer()
	if err == nil && said != "ready" {
		if _, err = told(key, said); err == nil {
			err = fmt.Errorf("ssh: %s: the other end says %q", key, said)
		}
	}
	if err != nil {
		c.end()
		return nil, err
	}
	w.c = c
	return w, nil
}

type writer struct {
	s         *sink
	c         *call
	key, part string
	exclusive string // 1, or empty if an object may be replaced
	written   int64
	failed    error
	ended     bool // nothing of it is there any more under the name of the part
	closed    bool
}

var errEnded = errors.New("ssh: the writer has ended")

func (w *writer) Write(b []byte) (int, error) {
	switch {
	case w.failed != nil:
		return 0, w.failed
	case w.closed:
		return 0, errEnded
	}
	n, err := w.c.p.Feed(w.c.ctx, b)
	w.written += int64(n)
	w.failed = err
	return n, err
}

// Commit ends the data and, once the other end has told how much it has on disk, gives
// the file its name: with a call of its own, so that no end of a connection can.
func (w *writer) Commit(ctx context.Context, end sinks.End) (info sinks.Info, err error) {
	if w.closed {
		return info, errEnded
	}
	defer func() {
		if err != nil && !errors.Is(err, sinks.ErrUnknown) {
			_ = w.Abort(context.WithoutCancel(ctx))
		}
	}()
	switch {
	case w.failed != nil:
		return info, w.failed
	case ctx.Err() != nil:
		return info, context.Cause(ctx)
	case w.written != end.SizeBytes:
		return info, fmt.Errorf("ssh: %d bytes written, and there should be %d: %w", w.written, end.SizeBytes, sinks.ErrShort)
	}
	if err := w.finish(ctx); err != nil {
		return info, err
	}
	said, err := w.s.ask(ctx, commitScript, w.key, w.s.root+w.part, w.exclusive, strconv.FormatInt(end.SizeBytes, 10))
	if err != nil {
		return w.look(ctx, err)
	}
	if info, err = told(w.key, said); err == nil {
		w.ended = true
	}
	return info, err
}

// finish closes the data's connection when the other end has told that all is stored.
func (w *writer) finish(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { w.c.p.Kill() })
	defer stop()
	w.closed = true
	cerr := w.c.p.Stdin.Close()
	said, err := w.c.answer()
	if err == nil {
		err = errors.Join(w.c.p.Wait(ctx), cerr)
	}
	w.c.end()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	i, err := told(w.key, said)
	if err == nil && i.SizeBytes != w.written {
		err = fmt.Errorf("ssh: %s: the other end has %d bytes of %d: %w", w.key, i.SizeBytes, w.written, sinks.ErrShort)
	}
	return err
}

// look asks what has become of a commit whose answer got lost.
func (w *writer) look(ctx context.Context, cause error) (sinks.Info, error) {
	if _, err := w.s.Stat(ctx, w.part); err == nil { // still under its old name
		return sinks.Info{}, cause
	}
	return sinks.Info{}, fmt.Errorf("%w: %w", cause, sinks.ErrUnknown)
}

// Abort ends the connection and removes the file.
func (w *writer) Abort(ctx context.Context) error {
	if !w.closed {
		w.closed = true
		w.c.end()
	}
	if w.ended {
		return nil
	}
	w.ended = true
	if err := w.s.remove(ctx, w.part); err != nil && !errors.Is(err, sinks.ErrNotExist) {
		return fmt.Errorf("%s is left behind: %w", w.part, err)
	}
	return nil
}
