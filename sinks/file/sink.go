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

const partRandom = 26 // as many characters as rand.Text has

// maxDepth bounds how deep List goes.
const maxDepth = 64

var errClosed = errors.New("file sink: it is closed")

type sink struct {
	dir   string // absolute
	mode  os.FileMode
	mkdir bool
	split int64 // length of pieces; 0: objects are whole files

	mu     sync.Mutex
	root   *os.Root
	closed bool
}

func (s *sink) Capabilities() sinks.Capabilities {
	c := capabilities
	c.Resume = s.split == 0
	return c
}

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
	if isPiece(path.Base(key)) {
		return fmt.Errorf("file sink: key %q has the form of a piece: %w", key, fs.ErrInvalid)
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
		Version: fmt.Sprintf("%d-%d%s", fi.Size(), fi.ModTime().UnixNano(), inode(fi)),
	}
}

func (s *sink) Stat(ctx context.Context, key string) (sinks.Info, error) {
	root, err := s.begin(ctx, key, false)
	if err != nil {
		return sinks.Info{}, err
	}
	fi, err := root.Lstat(key)
	if errors.Is(err, fs.ErrNotExist) {
		p, err := findPieces(root, key)
		if err != nil {
			return sinks.Info{}, err
		}
		return p.info()
	}
	if err == nil {
		err = regular(key, fi)
	}
	if err != nil {
		return sinks.Info{}, err
	}
	return infoOf(key, fi), nil
}

func (s *sink) Delete(ctx context.Context, key string) error {
	root, err := s.begin(ctx, key, false)
	if err != nil {
		return err
	}
	fi, err := root.Lstat(key)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		var p *pieces
		if p, err = findPieces(root, key); err == nil {
			err = p.remove(root) // also one of which pieces are missing
		}
	case err == nil:
		if err = regular(key, fi); err == nil {
			err = root.Remove(key)
		}
	}
	if err != nil {
		return err
	}
	return syncDir(root, path.Dir(key))
}

// found is what walk finds: a file, or the pieces of an object.
type found struct {
	name   string
	fi     fs.FileInfo
	pieces *pieces // nil for a file
	counts bool    // they are an object; otherwise something is left of one
}

// walk calls visit with every regular file and every set of pieces, in the order of
// their keys as bytes.
func (s *sink) walk(ctx context.Context, prefix string, visit func(found) bool) error {
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

func walkDir(ctx context.Context, root *os.Root, dir, prefix string, depth int, visit func(found) bool) (bool, error) {
	if err := context.Cause(ctx); err != nil {
		return false, err
	}
	if depth > maxDepth {
		return false, fmt.Errorf("file sink: %s: directories lie deeper than %d in each other", dir, maxDepth)
	}
	entries, err := fs.ReadDir(root.FS(), dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil // removed meanwhile
	}
	if err != nil {
		return false, err
	}
	sets, err := group(dir, entries)
	if err != nil {
		return false, err
	}
	rows := make([]row, 0, len(entries))
	for _, e := range entries {
		if !isPiece(e.Name()) {
			rows = append(rows, row{key: e.Name(), entry: e})
		}
	}
	for id, p := range sets {
		rows = append(rows, row{key: path.Base(id.key), pieces: p, counts: p == newest(sets, id.key)})
	}
	slices.SortFunc(rows, func(a, b row) int { return strings.Compare(a.sorted(), b.sorted()) })
	for _, r := range rows {
		more, err := r.visit(ctx, root, dir, prefix, depth, visit)
		if err != nil || !more {
			return false, err
		}
	}
	return true, nil
}

// row is what a directory has under a key.
type row struct {
	key    string
	entry  fs.DirEntry // nil for pieces
	pieces *pieces
	counts bool
}

func (r *row) sorted() string {
	if r.entry != nil && r.entry.IsDir() {
		return r.key + "/" // as it stands in keys
	}
	return r.key
}

func (r *row) visit(ctx context.Context, root *os.Root, dir, prefix string, depth int, visit func(found) bool) (bool, error) {
	name := path.Join(dir, r.key)
	switch {
	case r.pieces != nil:
		return visit(found{name: name, pieces: r.pieces, counts: r.counts}), nil
	case r.entry.IsDir():
		if below := name + "/"; strings.HasPrefix(below, prefix) || strings.HasPrefix(prefix, below) {
			return walkDir(ctx, root, name, prefix, depth+1, visit)
		}
	case r.entry.Type().IsRegular():
		if fi, err := r.entry.Info(); err == nil { // otherwise removed meanwhile
			return visit(found{name: name, fi: fi}), nil
		}
	}
	return true, nil
}

func (s *sink) List(ctx context.Context, prefix string) iter.Seq2[sinks.Info, error] {
	return func(yield func(sinks.Info, error) bool) {
		var damaged error
		err := s.walk(ctx, prefix, func(f found) bool {
			switch {
			case !strings.HasPrefix(f.name, prefix):
				return true
			case f.pieces == nil:
				return partForm.MatchString(path.Base(f.name)) || yield(infoOf(f.name, f.fi), nil)
			case !f.counts:
				return true
			}
			info, err := f.pieces.info()
			if err != nil { // it is told at the end, and the others first
				damaged = errors.Join(damaged, err)
				return true
			}
			return yield(info, nil)
		})
		if err = errors.Join(damaged, err); err != nil {
			yield(sinks.Info{}, err)
		}
	}
}

func (s *sink) Orphans(ctx context.Context, prefix string) iter.Seq2[sinks.Orphan, error] {
	return func(yield func(sinks.Orphan, error) bool) {
		// The prefix is one of keys; a temporary name has a dot in front.
		err := s.walk(ctx, prefix[:strings.LastIndex(prefix, "/")+1], func(f found) bool {
			for _, o := range f.orphans() {
				if strings.HasPrefix(o.Key, prefix) && !yield(o, nil) {
					return false
				}
			}
			return true
		})
		if err != nil {
			yield(sinks.Orphan{}, err)
		}
	}
}

// orphans returns what was left: a temporary file, or pieces of no object.
func (f *found) orphans() []sinks.Orphan {
	if f.pieces == nil {
		if m := partForm.FindStringSubmatch(path.Base(f.name)); m != nil {
			return []sinks.Orphan{{Key: path.Join(path.Dir(f.name), m[1]), ID: f.name, SizeBytes: f.fi.Size(), Begun: f.fi.ModTime()}}
		}
		return nil
	}
	if f.counts {
		return nil
	}
	var all []sinks.Orphan
	for _, p := range f.pieces.all {
		if p.name != "" {
			all = append(all, sinks.Orphan{Key: f.name, ID: p.name, SizeBytes: p.fi.Size(), Begun: p.fi.ModTime()})
		}
	}
	return all
}

func (s *sink) RemoveOrphan(ctx context.Context, o sinks.Orphan) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	root, err := s.open(false)
	if err != nil {
		return err
	}
	if !fs.ValidPath(o.ID) {
		return fmt.Errorf("file sink: %q is no file: %w", o.ID, fs.ErrInvalid)
	}
	if err := mayRemove(root, o); err != nil {
		return err
	}
	fi, err := root.Lstat(o.ID)
	if err == nil {
		err = regular(o.ID, fi)
	}
	if err != nil {
		return err
	}
	return root.Remove(o.ID)
}

// mayRemove refuses what is no orphan.
func mayRemove(root *os.Root, o sinks.Orphan) error {
	dir, base := path.Dir(o.ID), path.Base(o.ID)
	if m := partForm.FindStringSubmatch(base); m != nil && path.Join(dir, m[1]) == o.Key {
		return nil
	}
	name, n, count, digits, ok := parsePiece(base)
	if !ok || path.Join(dir, name) != o.Key {
		return fmt.Errorf("file sink: %q is nothing that is left of %q: %w", o.ID, o.Key, fs.ErrInvalid)
	}
	sets, err := setsIn(root, dir)
	if err != nil {
		return err
	}
	if p := newest(sets, o.Key); p != nil && p == sets[set{o.Key, count, digits}] {
		return fmt.Errorf("file sink: %s is piece %d of an object: %w", o.ID, n, fs.ErrInvalid)
	}
	return nil
}

func (s *sink) Open(ctx context.Context, key string) (io.ReadCloser, sinks.Info, error) {
	r, err := s.openAt(ctx, key)
	if err != nil {
		return nil, sinks.Info{}, err
	}
	return &sequential{r: r}, r.Info(), nil
}

func (s *sink) OpenAt(ctx context.Context, key string) (sinks.RangeReader, error) {
	return s.openAt(ctx, key)
}
