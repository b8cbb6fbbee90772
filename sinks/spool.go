// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package sinks

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
)

// spoolPieceBytes is how much goes to the writer behind a spool at a time.
const spoolPieceBytes = 1 << 20

// SpoolOptions say where a spool is and how much it holds.
type SpoolOptions struct {
	Dir        string        // of the file; empty: that of temporary files
	LimitBytes int64         // at most so much waits
	Stored     *atomic.Int64 // counts what the writer behind has taken; may be nil
}

// errEnded is what a writer says after Commit or Abort.
var errEnded = errors.New("the writer has ended")

// spool is a ring in a file: bytes from tail to head wait, each at its offset modulo
// the limit.
type spool struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	file    *os.File
	dir     string
	limit   int64
	stored  *atomic.Int64
	writer  Writer
	drained chan struct{} // closed when the goroutine has ended
	more    chan struct{} // there is something to drain, or no more to come
	room    chan struct{} // there is room, or an error

	mu         sync.Mutex
	head, tail int64
	complete   bool
	err        error
	ended      bool
}

// Spool returns a writer whose Write returns when the bytes are in a file that has
// no name any more; a goroutine takes them from there to w. When LimitBytes wait,
// Write does too. An error of w comes with the next Write or with Commit, which
// waits for the rest. The bytes are not safe before Commit has returned: the file is
// only there so that a slow w does not hold up what is read. When ctx ends, Write
// fails; a write of w under way ends with the context that w was created with.
// If Spool fails, w is as it was, and still the caller's.
func Spool(ctx context.Context, w Writer, o SpoolOptions) (Writer, error) {
	if o.LimitBytes <= 0 {
		return nil, errors.New("spool: its limit must be more than 0 bytes")
	}
	if o.Dir == "" {
		o.Dir = os.TempDir()
	}
	f, err := unlinkedFile(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	s := &spool{
		file: f, dir: o.Dir, limit: o.LimitBytes, stored: o.Stored, writer: w,
		drained: make(chan struct{}), more: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	go s.drain()
	return s, nil
}

// unlinkedFile makes a file that goes away with the process.
func unlinkedFile(dir string) (*os.File, error) {
	name := filepath.Join(dir, ".vmstream-spool-"+rand.Text())
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(name); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// span returns how much of want bytes lies at offset before the ring's end.
func (s *spool) span(offset, want int64) int64 { return min(want, s.limit-offset%s.limit) }

func (s *spool) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := s.space(int64(len(p) - done))
		if err != nil {
			return done, err
		}
		if _, err := s.file.WriteAt(p[done:done+int(n)], s.head%s.limit); err != nil {
			err = fmt.Errorf("spool in %s: %w; choose another --spool-dir or a smaller --spool", s.dir, bare(err))
			s.fail(err)
			return done, err
		}
		s.mu.Lock()
		s.head += n
		s.mu.Unlock()
		signal(s.more)
		done += int(n)
	}
	return done, nil
}

// bare takes the name off an error about a file that has none any more.
func bare(err error) error {
	var e *os.PathError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// space waits until some of want bytes fit and returns how many.
func (s *spool) space(want int64) (int64, error) {
	for {
		s.mu.Lock()
		err, free := s.err, s.limit-(s.head-s.tail)
		if s.ended {
			err = errEnded
		}
		s.mu.Unlock()
		switch {
		case err != nil:
			return 0, err
		case s.ctx.Err() != nil:
			return 0, context.Cause(s.ctx)
		case free > 0:
			return s.span(s.head, min(want, free)), nil
		}
		select {
		case <-s.room:
		case <-s.ctx.Done():
		}
	}
}

// fail notes the first error and ends the goroutine.
func (s *spool) fail(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.mu.Unlock()
	s.cancel(err)
	signal(s.room)
}

func (s *spool) drain() {
	defer close(s.drained)
	buffer := make([]byte, min(spoolPieceBytes, s.limit))
	for {
		n, err := s.waiting(int64(len(buffer)))
		if err == nil && n == 0 {
			return
		}
		if err == nil {
			err = s.pass(buffer[:n])
		}
		if err != nil {
			s.fail(err)
			return
		}
		s.mu.Lock()
		s.tail += n
		s.mu.Unlock()
		if s.stored != nil {
			s.stored.Add(n)
		}
		signal(s.room)
	}
}

// waiting returns how much can be drained at once; 0 means that all has been.
func (s *spool) waiting(want int64) (int64, error) {
	for {
		s.mu.Lock()
		n, complete := s.head-s.tail, s.complete
		s.mu.Unlock()
		switch {
		case s.ctx.Err() != nil:
			return 0, context.Cause(s.ctx)
		case n > 0:
			return s.span(s.tail, min(want, n)), nil
		case complete:
			return 0, nil
		}
		select {
		case <-s.more:
		case <-s.ctx.Done():
		}
	}
}

func (s *spool) pass(b []byte) error {
	if _, err := s.file.ReadAt(b, s.tail%s.limit); err != nil {
		return fmt.Errorf("spool in %s: %w", s.dir, bare(err))
	}
	_, err := writeAll(s.writer, b)
	return err
}

// end says if this is the first call that ends the writer.
func (s *spool) end() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := !s.ended
	s.ended = true
	return first
}

func (s *spool) Commit(ctx context.Context, end End) (Info, error) {
	if !s.end() {
		return Info{}, errEnded
	}
	s.mu.Lock()
	s.complete = true
	s.mu.Unlock()
	signal(s.more)
	select {
	case <-s.drained:
	case <-ctx.Done():
		s.fail(context.Cause(ctx))
	}
	s.mu.Lock()
	err := s.err
	s.mu.Unlock()
	if err != nil {
		return Info{}, errors.Join(err, s.giveUp(ctx))
	}
	s.cancel(nil)
	_ = s.file.Close() // nobody reads it again
	return s.writer.Commit(ctx, end)
}

func (s *spool) Abort(ctx context.Context) error {
	if !s.end() {
		return nil
	}
	s.fail(errEnded)
	return s.giveUp(ctx)
}

// giveUp aborts the writer behind once it has come back from its write. If that
// takes longer than ctx, it is aborted later.
func (s *spool) giveUp(ctx context.Context) error {
	finish := func(ctx context.Context) error {
		_ = s.file.Close() // nobody reads it again
		return s.writer.Abort(ctx)
	}
	select {
	case <-s.drained:
		return finish(ctx)
	case <-ctx.Done():
	}
	select {
	case <-s.drained: // both were ready
		return finish(ctx)
	default:
	}
	go func() {
		<-s.drained
		_ = finish(context.WithoutCancel(ctx)) // nobody is left to be told
	}()
	return fmt.Errorf("abort: a write is still under way: %w", context.Cause(ctx))
}
