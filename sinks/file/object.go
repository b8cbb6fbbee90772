// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package file

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/vmstream/vmstream/sinks"
)

var errEnded = errors.New("file sink: the writer has ended")

type writer struct {
	ctx       context.Context
	root      *os.Root
	file      *os.File
	part, key string
	overwrite bool
	size      int64
	err       error
	ended     bool
}

func (s *sink) Create(ctx context.Context, key string, o sinks.CreateOptions) (sinks.Writer, error) {
	if o.Keep || o.Resume {
		return nil, fmt.Errorf("file sink: keep and resume: %w", sinks.ErrUnsupported)
	}
	root, err := s.begin(ctx, key, s.mkdir)
	if err != nil {
		return nil, err
	}
	if s.mkdir {
		if err := root.MkdirAll(path.Dir(key), 0o777); err != nil {
			return nil, err
		}
	}
	if err := mayCreate(root, key, o.Overwrite); err != nil {
		return nil, err
	}
	part := path.Join(path.Dir(key), "."+path.Base(key)+".vmstream-"+rand.Text()+".part")
	f, err := root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, s.mode)
	if err != nil {
		return nil, err
	}
	return &writer{ctx: ctx, root: root, file: f, part: part, key: key, overwrite: o.Overwrite}, nil
}

// mayCreate refuses to replace what is there unless that was asked for, and
// devices, pipes, links and directories in any case.
func mayCreate(root *os.Root, key string, overwrite bool) error {
	fi, err := root.Lstat(key)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !fi.Mode().IsRegular():
		return regular(key, fi)
	case !overwrite:
		return fmt.Errorf("file sink: %s: %w", key, sinks.ErrExists)
	}
	return nil
}

func (w *writer) Write(p []byte) (int, error) {
	if w.ended {
		return 0, errEnded
	}
	if w.err == nil {
		w.err = context.Cause(w.ctx)
	}
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.file.Write(p)
	w.size += int64(n)
	w.err = err
	return n, err
}

func (w *writer) Commit(ctx context.Context, end sinks.End) (sinks.Info, error) {
	if w.ended {
		return sinks.Info{}, errEnded
	}
	w.ended = true
	info, err := w.commit(ctx, end)
	if err != nil && !errors.Is(err, sinks.ErrUnknown) {
		err = errors.Join(err, w.remove())
	}
	return info, err
}

func (w *writer) commit(ctx context.Context, end sinks.End) (sinks.Info, error) {
	err := errors.Join(w.err, context.Cause(w.ctx), context.Cause(ctx))
	if err == nil && w.size != end.SizeBytes {
		err = fmt.Errorf("file sink: %s has %d bytes and should have %d: %w", w.key, w.size, end.SizeBytes, sinks.ErrShort)
	}
	if err == nil {
		err = w.file.Sync()
	}
	err = errors.Join(err, w.file.Close())
	if err == nil {
		err = w.rename()
	}
	if err != nil {
		return sinks.Info{}, err
	}
	if err := syncDir(w.root, path.Dir(w.key)); err != nil {
		return sinks.Info{}, fmt.Errorf("file sink: %s has its name, but its directory may not be on the disk: %w: %w", w.key, err, sinks.ErrUnknown)
	}
	fi, err := w.root.Lstat(w.key)
	if err != nil {
		return sinks.Info{}, fmt.Errorf("%w: %w", err, sinks.ErrUnknown)
	}
	return infoOf(w.key, fi), nil
}

// rename gives the file its name. A link fails where a name is there; a rename
// replaces it.
func (w *writer) rename() error {
	if err := mayCreate(w.root, w.key, w.overwrite); err != nil {
		return err
	}
	if w.overwrite {
		return w.root.Rename(w.part, w.key)
	}
	if err := w.root.Link(w.part, w.key); err != nil {
		return err
	}
	// The object is there. A second name that stays is an orphan, no failure.
	_ = w.root.Remove(w.part)
	return nil
}

func (w *writer) remove() error {
	err := w.root.Remove(w.part)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Abort removes the file also when ctx has ended: it does not wait for anything.
func (w *writer) Abort(context.Context) error {
	if w.ended {
		return nil
	}
	w.ended = true
	_ = w.file.Close() // its bytes are not wanted
	return w.remove()
}

func syncDir(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

type reader struct {
	ctx  context.Context
	file *os.File
	info sinks.Info
}

func (s *sink) openAt(ctx context.Context, key string) (*reader, error) {
	// Looked at first: opening a pipe would wait for somebody to write to it.
	if _, err := s.Stat(ctx, key); err != nil {
		return nil, err
	}
	root, err := s.begin(ctx, key, false)
	if err != nil {
		return nil, err
	}
	f, err := root.Open(key)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil {
		err = regular(key, fi)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &reader{ctx: ctx, file: f, info: infoOf(key, fi)}, nil
}

func (r *reader) Info() sinks.Info { return r.info }
func (r *reader) Close() error     { return r.file.Close() }

func (r *reader) ReadAt(p []byte, offset int64) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	n, err := r.file.ReadAt(p, offset)
	if err == io.EOF && offset+int64(n) < r.info.SizeBytes {
		err = fmt.Errorf("file sink: %s was cut short while it was read: %w", r.info.Key, io.ErrUnexpectedEOF)
	}
	return n, err
}

// sequential reads a file from its first byte to its last.
type sequential struct {
	r      *reader
	offset int64
}

func (s *sequential) Read(p []byte) (int, error) {
	n, err := s.r.ReadAt(p, s.offset)
	s.offset += int64(n)
	if err == io.EOF {
		fi, statErr := s.r.file.Stat()
		if statErr != nil {
			return n, statErr
		}
		if infoOf(s.r.info.Key, fi).Version != s.r.info.Version {
			return n, fmt.Errorf("file sink: %s has changed while it was read", s.r.info.Key)
		}
	}
	return n, err
}

func (s *sequential) Close() error { return s.r.Close() }
