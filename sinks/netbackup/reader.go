// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package netbackup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/internal/child"
)

// Open makes the pipe and has bprestore write the newest image to it: the one with the
// target's keyword if it has one.
func (s *sink) Open(ctx context.Context, key string) (io.ReadCloser, sinks.Info, error) {
	if err := checkKey(key); err != nil {
		return nil, sinks.Info{}, err
	}
	if ctx.Err() != nil {
		return nil, sinks.Info{}, context.Cause(ctx)
	}
	path, err := makePipe(s.dir, key)
	if err != nil {
		return nil, sinks.Info{}, fmt.Errorf("netbackup: %w", err)
	}
	r, err := s.restore(ctx, path)
	if err != nil {
		return nil, sinks.Info{}, errors.Join(err, os.Remove(path))
	}
	return r, sinks.Info{Key: key, SizeBytes: -1}, nil
}

func (s *sink) restore(ctx context.Context, path string) (*reader, error) {
	// Whoever opens the pipe does not wait: both ends are open.
	in, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	out, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	argv := []string{filepath.Join(s.bin, "bprestore"), "-r", "-w", "0"}
	if s.master != "" {
		argv = append(argv, "-S", s.master)
	}
	if s.keyword != "" {
		argv = append(argv, "-k", s.keyword)
	}
	p, err := child.Start(child.Command{Argv: append(argv, path), Log: s.log, Name: "bprestore"})
	if err != nil {
		return nil, errors.Join(err, in.Close(), out.Close())
	}
	r := &reader{ctx: ctx, p: p, in: in, path: path, log: s.log}
	go func() { // what has been written by then comes before the end
		<-p.Done()
		_ = out.Close() // nothing was written to it
	}()
	r.stop = context.AfterFunc(ctx, func() { _ = in.SetReadDeadline(time.Unix(1, 0)) })
	return r, nil
}

// reader reads what bprestore writes. The end is one only if that has ended well.
type reader struct {
	ctx   context.Context //nolint:containedctx // it bounds the reading
	p     *child.Process
	in    *os.File
	path  string
	log   *slog.Logger // may be nil
	total int64
	stop  func() bool
	close sync.Once
	err   error // of Close
}

func (r *reader) Read(b []byte) (int, error) {
	n, err := r.in.Read(b)
	r.total += int64(n)
	switch {
	case err == nil || n > 0:
		return n, nil
	case r.ctx.Err() != nil:
		return 0, context.Cause(r.ctx)
	case err != io.EOF:
		return 0, err
	}
	if err := outcome(r.ctx, r.p, "bprestore"); err != nil {
		return 0, err
	}
	if r.total == 0 && r.log != nil { // an object may be empty, a stream never is
		r.log.Warn("bprestore has ended well, but nothing has come through the pipe: BACKUP_FIFO_FILES = 1 has to have been set when it was backed up", "pipe", r.path)
	}
	return 0, io.EOF
}

// Close ends bprestore if it has not ended.
func (r *reader) Close() error {
	r.close.Do(func() {
		r.stop()
		r.p.Kill()
		r.err = errors.Join(r.in.Close(), os.Remove(r.path))
	})
	return r.err
}
