// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/vmstream/vmstream/disk"
)

// crashFS is a file system with a volatile cache: what is not synced may be
// lost at a crash, in any part and any order. It works on real files, keeps a
// history, and stops at the operation called stopAt.
type crashFS struct {
	dir    string
	stopAt int // counted from 1; 0 never
	ops    int

	live    map[string]*crashFile // by name
	durable map[string]*crashFile
	pending []dirOp
}

var errStopped = errors.New("stopped here")

// crashFile is the content of a file: what is durable, and what came since.
type crashFile struct {
	synced  []byte
	pending []dataOp
	info    os.FileInfo // of a file that was there before
	changed bool
}

// dataOp is a write, or a change of the length if data is nil.
type dataOp struct {
	off  int64
	data []byte
}

// dirOp sets and removes names in one step.
type dirOp struct {
	set, remove string
	file        *crashFile
}

func newCrashFS(t failer, dir string, stopAt int) *crashFS {
	c := &crashFS{dir: dir, stopAt: stopAt, live: map[string]*crashFile{}, durable: map[string]*crashFile{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatalf("%v", err)
		}
		f := &crashFile{synced: b}
		if f.info, err = e.Info(); err != nil {
			t.Fatalf("%v", err)
		}
		c.live[e.Name()], c.durable[e.Name()] = f, f
	}
	return c
}

// step counts an operation and reports if the machine stops at it.
func (c *crashFS) step() bool {
	c.ops++
	return c.stopAt > 0 && c.ops >= c.stopAt
}

func (c *crashFS) name(path string) string {
	if filepath.Dir(path) != c.dir {
		panic("outside the directory: " + path)
	}
	return filepath.Base(path)
}

// Create is part of FS.
func (c *crashFS) Create(path, like string) (File, error) {
	stop := c.step()
	if c.stopAt > 0 && c.ops > c.stopAt {
		return nil, errStopped
	}
	f := &crashFile{changed: true}
	c.live[c.name(path)] = f
	c.pending = append(c.pending, dirOp{set: c.name(path), file: f})
	if stop {
		return nil, errStopped
	}
	real, err := OS().Create(path, like)
	return &crashHandle{c, f, real}, err
}

// Open is part of FS. It changes nothing and does not count.
func (c *crashFS) Open(path string) (File, error) {
	if c.stopAt > 0 && c.ops >= c.stopAt {
		return nil, errStopped
	}
	real, err := OS().Open(path)
	return &crashHandle{c, c.live[c.name(path)], real}, err
}

// Rename is part of FS.
func (c *crashFS) Rename(a, b string) error {
	stop := c.step()
	if c.stopAt > 0 && c.ops > c.stopAt {
		return errStopped
	}
	f := c.live[c.name(a)]
	delete(c.live, c.name(a))
	c.live[c.name(b)] = f
	c.pending = append(c.pending, dirOp{set: c.name(b), remove: c.name(a), file: f})
	if stop {
		return errStopped
	}
	return os.Rename(a, b)
}

// Remove is part of FS.
func (c *crashFS) Remove(path string) error {
	stop := c.step()
	if c.stopAt > 0 && c.ops > c.stopAt {
		return errStopped
	}
	delete(c.live, c.name(path))
	c.pending = append(c.pending, dirOp{remove: c.name(path)})
	if stop {
		return errStopped
	}
	return os.Remove(path)
}

// SyncDir is part of FS.
func (c *crashFS) SyncDir(dir string) error {
	if dir != c.dir {
		return fmt.Errorf("sync of another directory, %s", dir)
	}
	if c.step() {
		return errStopped
	}
	for _, op := range c.pending {
		op.apply(c.durable)
	}
	c.pending = nil
	return nil
}

func (op dirOp) apply(names map[string]*crashFile) {
	if op.remove != "" {
		delete(names, op.remove)
	}
	if op.set != "" {
		names[op.set] = op.file
	}
}

type crashHandle struct {
	fs   *crashFS
	file *crashFile
	real File
}

func (h *crashHandle) ReadAt(p []byte, off int64) (int, error) { return h.real.ReadAt(p, off) }
func (h *crashHandle) Close() error                            { return h.real.Close() }

func (h *crashHandle) WriteAt(p []byte, off int64) (int, error) {
	if err := h.change(dataOp{off, slices.Clone(p)}); err != nil {
		return 0, err
	}
	return h.real.WriteAt(p, off)
}

func (h *crashHandle) Truncate(n int64) error {
	if err := h.change(dataOp{off: n}); err != nil {
		return err
	}
	return h.real.Truncate(n)
}

func (h *crashHandle) change(op dataOp) error {
	stop := h.fs.step()
	if h.fs.stopAt > 0 && h.fs.ops > h.fs.stopAt {
		return errStopped
	}
	h.file.pending = append(h.file.pending, op)
	h.file.changed = true
	if stop {
		return errStopped
	}
	return nil
}

func (h *crashHandle) Sync() error {
	if h.fs.step() {
		return errStopped
	}
	for _, op := range h.file.pending {
		h.file.synced = op.apply(h.file.synced, nil)
	}
	h.file.pending = nil
	return nil
}

// apply returns the content after the operation; keep decides which sectors of
// a write are taken, nil for all.
func (op dataOp) apply(b []byte, keep func() bool) []byte {
	if op.data == nil {
		return resize(b, int(op.off))
	}
	for i := 0; i < len(op.data); {
		n := min(512-int(op.off+int64(i))%512, len(op.data)-i)
		if keep == nil || keep() {
			end := int(op.off) + i + n
			if end > len(b) {
				b = resize(b, end)
			}
			copy(b[int(op.off)+i:], op.data[i:i+n])
		}
		i += n
	}
	return b
}

func resize(b []byte, n int) []byte {
	if n <= len(b) {
		return b[:n:n]
	}
	return append(slices.Clone(b), make([]byte, n-len(b))...)
}

// lose is what a crash does to what is not durable.
type lose int

const (
	loseAll lose = iota
	loseNothing
	loseData  // names survive, data does not
	loseNames // data survives, names do not
	loseRandom
)

// crash makes a directory of what is on disk after the machine has stopped.
func (c *crashFS) crash(t failer, dir string, how lose, random func() bool) {
	keep := func(data bool) func() bool {
		return func() bool {
			switch how {
			case loseAll:
				return false
			case loseNothing:
				return true
			case loseData:
				return !data
			case loseNames:
				return data
			default:
				return random()
			}
		}
	}
	names := map[string]*crashFile{}
	for n, f := range c.durable {
		names[n] = f
	}
	for _, op := range c.pending {
		if keep(false)() {
			op.apply(names)
		}
	}
	for n, f := range names {
		b := slices.Clone(f.synced)
		for _, op := range f.pending {
			if op.data != nil || keep(true)() {
				b = op.apply(b, keep(true))
			}
		}
		path := filepath.Join(dir, n)
		if err := writeSparse(path, b); err != nil {
			t.Fatalf("%v", err)
		}
		if !f.changed {
			if err := os.Chtimes(path, f.info.ModTime(), f.info.ModTime()); err != nil {
				t.Fatalf("%v", err)
			}
		}
	}
}

// writeSparse writes a file and leaves zeros out.
func writeSparse(path string, b []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	err = f.Truncate(int64(len(b)))
	for i := 0; i < len(b) && err == nil; i += 4096 {
		if p := b[i:min(i+4096, len(b))]; !disk.IsZero(p) {
			_, err = f.WriteAt(p, int64(i))
		}
	}
	return errors.Join(err, f.Close())
}

// copyDir copies the files of a directory, with their times.
func copyDir(t failer, from, to string) {
	c := newCrashFS(t, from, 0)
	c.crash(t, to, loseNothing, nil)
}
