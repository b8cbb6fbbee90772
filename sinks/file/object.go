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
	"syscall"

	"github.com/vmstream/vmstream/internal/readahead"
	"github.com/vmstream/vmstream/internal/writeback"
	"github.com/vmstream/vmstream/sinks"
)

var errEnded = errors.New("file sink: the writer has ended")

type writer struct {
	ctx       context.Context
	root      *os.Root
	file      *writeback.File
	part, key string
	overwrite bool
	size      int64
	err       error
	ended     bool
	keep      bool
	kept      kept
}

func (s *sink) Create(ctx context.Context, key string, o sinks.CreateOptions) (sinks.Writer, error) {
	if (o.Keep || o.Resume) && s.split > 0 {
		return nil, fmt.Errorf("file sink: keep and resume with split: %w", sinks.ErrUnsupported)
	}
	root, err := s.begin(ctx, key, s.mkdir)
	if err != nil {
		return nil, err
	}
	if s.mkdir {
		if err := makeDirs(root, path.Dir(key)); err != nil {
			return nil, err
		}
	}
	if err := mayCreate(root, key, o.Overwrite); err != nil {
		return nil, err
	}
	if s.split > 0 {
		return &splitWriter{ctx: ctx, s: s, root: root, key: key, overwrite: o.Overwrite}, nil
	}
	w := &writer{ctx: ctx, root: root, key: key, overwrite: o.Overwrite, keep: o.Keep}
	if o.Keep || o.Resume {
		w.file, w.part, w.kept.left, err = keptPart(root, key, o.ID, s.mode, o.Resume)
		w.kept.file = w.file
	} else {
		w.file, w.part, err = newPart(root, key, s.mode)
	}
	if err != nil {
		return nil, err
	}
	return w, nil
}

// newPart makes a temporary file beside that of a key.
func newPart(root *os.Root, key string, mode os.FileMode) (*writeback.File, string, error) {
	part := partName(key, rand.Text())
	f, err := root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return nil, "", err
	}
	return writeback.New(f), part, nil
}

// mayCreate refuses to replace what is there unless that was asked for, and
// devices, pipes, links and directories in any case.
func mayCreate(root *os.Root, key string, overwrite bool) error {
	fi, err := root.Lstat(key)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		_, err := findPieces(root, key)
		switch {
		case errors.Is(err, fs.ErrNotExist), err == nil && overwrite:
			return nil
		case err == nil:
			err = fmt.Errorf("file sink: %s is there in pieces: %w", key, sinks.ErrExists)
		}
		return err
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
	done, err := w.kept.pass(p, w.size)
	if w.size += int64(done); err == nil && done < len(p) {
		var n int
		n, err = w.file.WriteAt(p[done:], w.size)
		done, w.size = done+n, w.size+int64(n)
	}
	w.err = err
	return done, err
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
	if err == nil && w.kept.left > 0 { // it was longer
		err = w.file.Truncate(w.size)
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

// rename gives the file its name, and removes what it replaces.
func (w *writer) rename() error {
	if err := mayCreate(w.root, w.key, w.overwrite); err != nil {
		return err
	}
	if !w.overwrite {
		return publish(w.root, w.part, w.key)
	}
	if err := w.root.Rename(w.part, w.key); err != nil {
		return err
	}
	for { // pieces of the key do not count any more
		p, err := findPieces(w.root, w.key)
		if err != nil || p.remove(w.root) != nil {
			return nil
		}
	}
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
	err := w.file.Close()
	if w.keep {
		return err
	}
	return w.remove()
}

type reader struct {
	ctx    context.Context
	file   *os.File
	info   sinks.Info
	places readahead.Places
}

// openRegular opens a file, but no pipe that has taken its name: opening that would wait
// for somebody to write to it.
func openRegular(root *os.Root, name string) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil {
		err = regular(name, fi)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (s *sink) openAt(ctx context.Context, key string) (sinks.RangeReader, error) {
	root, err := s.begin(ctx, key, false)
	if err != nil {
		return nil, err
	}
	fi, err := root.Lstat(key)
	if errors.Is(err, fs.ErrNotExist) {
		p, err := findPieces(root, key)
		if err != nil {
			return nil, err
		}
		return newPieceReader(ctx, root, p)
	}
	if err == nil {
		err = regular(key, fi) // a link, too, is none
	}
	if err != nil {
		return nil, err
	}
	f, err := openRegular(root, key)
	if err != nil {
		return nil, err
	}
	if fi, err = f.Stat(); err != nil {
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
	n, err := r.places.ReadAt(r.file, p, offset)
	if err == io.EOF && offset+int64(n) < r.info.SizeBytes {
		err = fmt.Errorf("file sink: %s was cut short while it was read: %w", r.info.Key, io.ErrUnexpectedEOF)
	}
	return n, err
}

// sequential reads an object from its first byte to its last.
type sequential struct {
	r      sinks.RangeReader
	offset int64
}

func (s *sequential) Read(p []byte) (int, error) {
	n, err := s.r.ReadAt(p, s.offset)
	s.offset += int64(n)
	if err == io.EOF && n < len(p) {
		if changed := s.r.(interface{ changed() error }).changed(); changed != nil {
			return n, changed
		}
	}
	return n, err
}

func (s *sequential) Close() error { return s.r.Close() }

// changed fails if the file is not what was opened.
func (r *reader) changed() error {
	fi, err := r.file.Stat()
	if err == nil && infoOf(r.info.Key, fi).Version != r.info.Version {
		err = fmt.Errorf("file sink: %s has changed while it was read", r.info.Key)
	}
	return err
}

// changed says nothing: each piece is compared when it is read.
func (r *pieceReader) changed() error { return nil }
