// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

// Package netbackup has the sink that is a user backup of NetBackup, which reads the
// stream from a named pipe.
package netbackup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/internal/child"
)

// Driver returns the driver of netbackup targets.
func Driver() sinks.Driver { return driver{} }

type driver struct{}

func (driver) Describe() sinks.Description {
	return sinks.Description{
		Scheme: "netbackup", Summary: "a user backup of NetBackup, through a named pipe (not tried with the product)",
		Form: "netbackup:POLICY/SCHEDULE/NAME", Options: options,
		Environment:  []string{"PATH", "HOME", "LANG", "LC_*", "NB_*"},
		Capabilities: capabilities,
	}
}

func (driver) Open(_ context.Context, t sinks.Target, log *slog.Logger) (sinks.Sink, string, error) {
	s, err := parse(t)
	if err != nil {
		return nil, "", err
	}
	return &sink{Unsupported: sinks.Unsupported{What: "netbackup (see docs/netbackup.md)"}, settings: s, log: log}, s.key, nil
}

type sink struct {
	sinks.Unsupported
	settings
	log *slog.Logger
}

// capabilities: bplist tells of images in a way that differs between releases, so
// nothing is listed; nothing is removed from a catalog.
var capabilities = sinks.Capabilities{Read: true, Concurrent: true}

func (*sink) Capabilities() sinks.Capabilities { return capabilities }

// Create makes the pipe and starts bpbackup, which waits for the end of its job.
func (s *sink) Create(ctx context.Context, key string, o sinks.CreateOptions) (sinks.Writer, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	if o.Keep || o.Resume {
		return nil, fmt.Errorf("netbackup: keep and resume: %w", sinks.ErrUnsupported)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	argv := []string{filepath.Join(s.bin, "bpbackup"), "-p", s.policy, "-s", s.schedule}
	if s.master != "" {
		argv = append(argv, "-S", s.master)
	}
	argv = append(argv, "-w", "0")
	if k := s.keyword; k != "" {
		argv = append(argv, "-k", k)
	} else if keywordForm.MatchString(o.ID) {
		argv = append(argv, "-k", o.ID)
	}
	path, err := makePipe(s.dir, key)
	if err != nil {
		return nil, fmt.Errorf("netbackup: %w", err)
	}
	p, err := child.Start(child.Command{Argv: append(argv, path), Log: s.log, Name: "bpbackup"})
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return &writer{ctx: ctx, p: p, path: path, key: key}, nil
}

type writer struct {
	ctx     context.Context //nolint:containedctx // it bounds the writing
	p       *child.Process
	pipe    *os.File // nil until bpbackup reads
	path    string
	key     string
	written int64
	failed  error
	ended   bool
}

func (w *writer) Write(b []byte) (int, error) {
	if w.failed != nil || w.ended {
		return 0, errors.Join(w.failed, w.over())
	}
	n, err := w.write(b)
	w.written += int64(n)
	w.failed = err
	return n, err
}

func (w *writer) over() error {
	if w.ended {
		return errors.New("netbackup: the writer has ended")
	}
	return nil
}

func (w *writer) open() (err error) {
	if w.pipe == nil {
		w.pipe, err = openForWriting(w.ctx, w.path, w.p)
	}
	return err
}

func (w *writer) write(b []byte) (int, error) {
	if err := w.open(); err != nil {
		return 0, err
	}
	stop := context.AfterFunc(w.ctx, func() { _ = w.pipe.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	n, err := w.pipe.Write(b)
	switch {
	case err == nil:
		return n, nil
	case w.ctx.Err() != nil:
		return n, context.Cause(w.ctx)
	}
	wait, cancel := context.WithTimeout(w.ctx, 30*time.Second) // it is about to say why
	defer cancel()
	if oerr := outcome(wait, w.p, "bpbackup"); oerr != nil {
		return n, oerr
	}
	return n, fmt.Errorf("bpbackup has ended before it had everything: %w", err)
}

// Commit closes the pipe, and waits for the status of the job.
func (w *writer) Commit(ctx context.Context, end sinks.End) (sinks.Info, error) {
	err := errors.Join(w.failed, w.over(), context.Cause(ctx), context.Cause(w.ctx))
	if err == nil && end.SizeBytes != w.written {
		err = fmt.Errorf("netbackup: %d bytes written, and there should be %d: %w", w.written, end.SizeBytes, sinks.ErrShort)
	}
	if err == nil {
		err = w.open()
	}
	if err != nil {
		return sinks.Info{}, errors.Join(err, w.Abort(ctx))
	}
	w.ended = true
	rest, err := openRest(w.path) // before the end, so that nothing unread gets lost
	early := w.p.Ended()          // it has not seen the end of the stream
	err = errors.Join(err, w.pipe.Close())
	err = errors.Join(outcome(ctx, w.p, "bpbackup"), err)
	if left := rest.close(w.p.Ended()); err == nil && (early || left > 0) {
		err = fmt.Errorf("%w: its status is 0, and %d bytes or more are left in the pipe", w.p.Early(), left)
	}
	if !w.p.Ended() {
		w.p.Kill()
		err = fmt.Errorf("%w: %w", err, sinks.ErrUnknown) // the job may go on without bpbackup
	}
	if err = errors.Join(err, os.Remove(w.path)); err != nil {
		return sinks.Info{}, err
	}
	return sinks.Info{Key: w.key, SizeBytes: w.written}, nil
}

// Abort ends bpbackup, and with it the pipe's last writer: NetBackup may keep an image
// then, which has no end record.
func (w *writer) Abort(context.Context) error {
	if w.ended {
		return nil
	}
	w.ended = true
	w.p.Kill()
	var err error
	if w.pipe != nil {
		err = w.pipe.Close()
	}
	return errors.Join(err, os.Remove(w.path))
}
