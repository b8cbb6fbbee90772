// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

// Package networker has the sink that hands streams to NetWorker's save. That reads no
// stdin, and what it makes of a named pipe is not documented, so an object is a file in
// a directory of its own until save has it.
package networker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/internal/child"
)

// Driver returns the driver of networker targets.
func Driver() sinks.Driver { return driver{} }

type driver struct{}

var capabilities = sinks.Capabilities{Read: true, Concurrent: true}

func (driver) Describe() sinks.Description {
	return sinks.Description{
		Scheme: "networker", Summary: "save and recover of NetWorker, by way of a staging file (not tried with the product)",
		Form: "networker:NAME", Options: options,
		Environment:  []string{"PATH", "HOME", "LANG", "LC_*", "NSR_*"},
		Capabilities: capabilities,
	}
}

func (driver) Open(_ context.Context, t sinks.Target, log *slog.Logger) (sinks.Sink, string, error) {
	s, err := parse(t)
	if err != nil {
		return nil, "", err
	}
	return &sink{Unsupported: sinks.Unsupported{What: "networker (see docs/networker.md)"}, settings: s, log: log}, s.key, nil
}

type sink struct {
	sinks.Unsupported
	settings
	log *slog.Logger
}

func (*sink) Capabilities() sinks.Capabilities { return capabilities }

// staging makes the directory of staging files, which only its owner may change.
func (s *sink) staging() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	st, err := os.Lstat(s.dir)
	if err != nil {
		return err
	}
	if !st.IsDir() || st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("networker: %s has to be a directory that only its owner may write to", s.dir)
	}
	return nil
}

// Create begins a staging file. Its path is that of the save set, so two runs cannot
// have the same one at a time.
func (s *sink) Create(ctx context.Context, key string, o sinks.CreateOptions) (sinks.Writer, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	if o.Keep || o.Resume {
		return nil, fmt.Errorf("networker: keep and resume: %w", sinks.ErrUnsupported)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := s.staging(); err != nil {
		return nil, err
	}
	path := filepath.Join(s.dir, key)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("networker: %s is there: remove it if no run is at work on it", path)
	}
	if err != nil {
		return nil, err
	}
	return &writer{ctx: ctx, s: s, f: f, path: path, key: key}, nil
}

type writer struct {
	ctx     context.Context //nolint:containedctx // it bounds the writing
	s       *sink
	f       *os.File
	path    string
	key     string
	written int64
	failed  error
	ended   bool
}

var errEnded = errors.New("networker: the writer has ended")

func (w *writer) Write(b []byte) (int, error) {
	if w.ended {
		return 0, errEnded
	}
	if w.failed == nil {
		w.failed = context.Cause(w.ctx)
	}
	if w.failed != nil {
		return 0, w.failed
	}
	n, err := w.f.Write(b)
	w.written += int64(n)
	w.failed = err
	return n, err
}

// Commit has save read the file, and removes it.
func (w *writer) Commit(ctx context.Context, end sinks.End) (sinks.Info, error) {
	if w.ended {
		return sinks.Info{}, errEnded
	}
	w.ended = true
	err := errors.Join(w.failed, context.Cause(w.ctx), context.Cause(ctx))
	if err == nil && end.SizeBytes != w.written {
		err = fmt.Errorf("networker: %d bytes written, and there should be %d: %w", w.written, end.SizeBytes, sinks.ErrShort)
	}
	if err = errors.Join(err, w.f.Close()); err == nil {
		err = w.s.save(ctx, w.path)
	}
	if err = errors.Join(err, os.Remove(w.path)); err != nil {
		return sinks.Info{}, err
	}
	return sinks.Info{Key: w.key, SizeBytes: w.written}, nil
}

// Abort removes the staging file. save has not seen it.
func (w *writer) Abort(context.Context) error {
	if w.ended {
		return nil
	}
	w.ended = true
	_ = w.f.Close() // its bytes are not wanted
	return os.Remove(w.path)
}

// save runs save on a file, and waits for it.
func (s *sink) save(ctx context.Context, path string) error {
	argv := []string{filepath.Join(s.bin, "save"), "-q"}
	for _, o := range []struct{ flag, value string }{
		{"-s", s.server}, {"-c", s.client}, {"-b", s.pool}, {"-g", s.group}, {"-l", s.level}, {"-y", s.retention},
	} {
		if o.value != "" {
			argv = append(argv, o.flag, o.value)
		}
	}
	p, err := child.Start(child.Command{Argv: append(argv, path), Log: s.log, Name: "save"})
	if err != nil {
		return err
	}
	if err := p.Wait(ctx); err != nil {
		if !p.Ended() {
			p.Kill()
			err = fmt.Errorf("%w: %w", err, sinks.ErrUnknown)
		}
		return err
	}
	return nil
}

// Open has recover put the newest save set of the key into the staging directory, and
// reads it from there. The file goes when the reader is closed.
func (s *sink) Open(ctx context.Context, key string) (io.ReadCloser, sinks.Info, error) {
	if err := checkKey(key); err != nil {
		return nil, sinks.Info{}, err
	}
	if ctx.Err() != nil {
		return nil, sinks.Info{}, context.Cause(ctx)
	}
	if err := s.staging(); err != nil {
		return nil, sinks.Info{}, err
	}
	to, err := os.MkdirTemp(s.dir, "recover-*")
	if err != nil {
		return nil, sinks.Info{}, err
	}
	f, err := s.recover(ctx, key, to)
	if err != nil {
		return nil, sinks.Info{}, errors.Join(err, os.RemoveAll(to))
	}
	st, err := f.Stat()
	if err != nil {
		return nil, sinks.Info{}, errors.Join(err, f.Close(), os.RemoveAll(to))
	}
	return &recovered{ctx: ctx, File: f, dir: to}, sinks.Info{Key: key, SizeBytes: st.Size()}, nil
}

func (s *sink) recover(ctx context.Context, key, to string) (*os.File, error) {
	argv := []string{filepath.Join(s.bin, "recover"), "-a", "-q"}
	if s.server != "" {
		argv = append(argv, "-s", s.server)
	}
	if s.client != "" {
		argv = append(argv, "-c", s.client)
	}
	argv = append(argv, "-d", to, filepath.Join(s.dir, key))
	p, err := child.Start(child.Command{Argv: argv, Log: s.log, Name: "recover"})
	if err != nil {
		return nil, err
	}
	if err := p.Wait(ctx); err != nil {
		p.Kill()
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(to, key), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("recover has ended well, but the file is not there: %w", err)
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("recover has made something else than a file of %s", key), f.Close())
	}
	return f, nil
}

// recovered is a file that goes when it has been read.
type recovered struct {
	*os.File
	ctx context.Context //nolint:containedctx // it bounds the reading
	dir string
}

func (r *recovered) Read(b []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.File.Read(b)
}

func (r *recovered) Close() error {
	err := r.File.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(r.dir))
}
