// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/vmstream/vmstream/sinks"
)

// partForm is that of temporary files: .NAME.vmstream-RANDOM.part.
var partForm = regexp.MustCompile(`^\.(.+)\.vmstream-[A-Z2-7]{26}\.part$`)

// maxDepth bounds how deep List goes.
const maxDepth = 64

var errClosed = errors.New("file sink: it is closed")

type sink struct {
	dir   string // absolute
	mode  os.FileMode
	mkdir bool

	mu     sync.Mutex
	root   *os.Root
	closed bool
}

func (s *sink) Capabilities() sinks.Capabilities { return capabilities }

// open returns the root, which no key leads out of.
func (s *sink) open(mkdir bool) (*os.Root, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if s.root != nil {
		return s.root, nil
	}
	if mkdir {
		if err := os.MkdirAll(s.dir, 0o777); err != nil {
			return nil, err
		}
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, err
	}
	s.root = root
	return root, nil
}

func (s *sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.root == nil {
		return nil
	}
	root := s.root
	s.root = nil
	return root.Close()
}

// checkKey refuses keys that are no plain path below the root, and names that
// temporary files have.
func checkKey(key string) error {
	if !fs.ValidPath(key) || key == "." || strings.ContainsRune(key, 0) {
		return fmt.Errorf("file sink: key %q is no path below its directory: %w", key, fs.ErrInvalid)
	}
	if partForm.MatchString(path.Base(key)) {
		return fmt.Errorf("file sink: key %q has the form of a temporary file: %w", key, fs.ErrInvalid)
	}
	return nil
}

// begin is what every call for a key starts with.
func (s *sink) begin(ctx context.Context, key string, mkdir bool) (*os.Root, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if err := checkKey(key); err != nil {
		return nil, err
	}
	return s.open(mkdir)
}

func regular(key string, fi fs.FileInfo) error {
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("file sink: %s is no regular file (%v): %w", key, fi.Mode().Type(), fs.ErrInvalid)
	}
	return nil
}

func infoOf(key string, fi fs.FileInfo) sinks.Info {
	return sinks.Info{
		Key: key, SizeBytes: fi.Size(), Modified: fi.ModTime(),
		Version: fmt.Sprintf("%d-%d", fi.Size(), fi.ModTime().UnixNano()),
	}
}

func (s *sink) Stat(ctx context.Context, key string) (sinks.Info, error) {
	root, err := s.begin(ctx, key, false)
	if err != nil {
		return sinks.Info{}, err
	}
	fi, err := root.Lstat(key)
	if err == nil {
		err = regular(key, fi)
	}
	if err != nil {
		return sinks.Info{}, err
	}
	return infoOf(key, fi), nil
}

func (s *sink) Delete(ctx context.Context, key string) error {
	if _, err := s.Stat(ctx, key); err != nil {
		return err
	}
	root, err := s.begin(ctx, key, false)
	if err != nil {
		return err
	}
	if err := root.Remove(key); err != nil {
		return err
	}
	return syncDir(root, path.Dir(key))
}

// walk calls visit with every regular file, in the order of their paths as bytes.
func (s *sink) walk(ctx context.Context, prefix string, visit func(name string, fi fs.FileInfo) bool) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	root, err := s.open(false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = walkDir(ctx, root, ".", prefix, 0, visit)
	return err
}

func walkDir(ctx context.Context, root *os.Root, dir, prefix string, depth int, visit func(string, fs.FileInfo) bool) (bool, error) {
	if err := context.Cause(ctx); err != nil || depth > maxDepth {
		return false, err
	}
	entries, err := fs.ReadDir(root.FS(), dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil // removed meanwhile
	}
	if err != nil {
		return false, err
	}
	sorted := func(e fs.DirEntry) string {
		if e.IsDir() {
			return e.Name() + "/" // as it stands in keys
		}
		return e.Name()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(sorted(a), sorted(b)) })
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		more := true
		switch {
		case e.IsDir():
			if below := name + "/"; strings.HasPrefix(below, prefix) || strings.HasPrefix(prefix, below) {
				more, err = walkDir(ctx, root, name, prefix, depth+1, visit)
			}
		case e.Type().IsRegular():
			fi, infoErr := e.Info()
			if infoErr == nil {
				more = visit(name, fi)
			}
		}
		if err != nil || !more {
			return false, err
		}
	}
	return true, nil
}

func (s *sink) List(ctx context.Context, prefix string) iter.Seq2[sinks.Info, error] {
	return func(yield func(sinks.Info, error) bool) {
		err := s.walk(ctx, prefix, func(name string, fi fs.FileInfo) bool {
			if !strings.HasPrefix(name, prefix) || partForm.MatchString(path.Base(name)) {
				return true
			}
			return yield(infoOf(name, fi), nil)
		})
		if err != nil {
			yield(sinks.Info{}, err)
		}
	}
}

func (s *sink) Orphans(ctx context.Context, prefix string) iter.Seq2[sinks.Orphan, error] {
	return func(yield func(sinks.Orphan, error) bool) {
		// The prefix is one of keys; a temporary name has a dot in front.
		err := s.walk(ctx, prefix[:strings.LastIndex(prefix, "/")+1], func(name string, fi fs.FileInfo) bool {
			m := partForm.FindStringSubmatch(path.Base(name))
			if m == nil {
				return true
			}
			key := path.Join(path.Dir(name), m[1])
			if !strings.HasPrefix(key, prefix) {
				return true
			}
			return yield(sinks.Orphan{Key: key, ID: name, SizeBytes: fi.Size(), Begun: fi.ModTime()}, nil)
		})
		if err != nil {
			yield(sinks.Orphan{}, err)
		}
	}
}

func (s *sink) RemoveOrphan(ctx context.Context, o sinks.Orphan) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	m := partForm.FindStringSubmatch(path.Base(o.ID))
	if !fs.ValidPath(o.ID) || m == nil || path.Join(path.Dir(o.ID), m[1]) != o.Key {
		return fmt.Errorf("file sink: %q is no temporary file of %q: %w", o.ID, o.Key, fs.ErrInvalid)
	}
	root, err := s.open(false)
	if err != nil {
		return err
	}
	return root.Remove(o.ID)
}

func (s *sink) Open(ctx context.Context, key string) (io.ReadCloser, sinks.Info, error) {
	r, err := s.openAt(ctx, key)
	if err != nil {
		return nil, sinks.Info{}, err
	}
	return &sequential{r: r}, r.info, nil
}

func (s *sink) OpenAt(ctx context.Context, key string) (sinks.RangeReader, error) {
	r, err := s.openAt(ctx, key)
	if err != nil {
		return nil, err // not a nil *reader in an interface
	}
	return r, nil
}
