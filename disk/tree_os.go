// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
)

// OS returns the operating system's files.
func OS() Tree { return osTree{} }

type osTree struct{}

func (osTree) Open(name string) (RawFile, error) {
	f, err := OpenRaw(name)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (osTree) Stat(name string) (fs.FileInfo, error)  { return os.Stat(name) }
func (osTree) Lstat(name string) (fs.FileInfo, error) { return os.Lstat(name) }
func (osTree) SameFile(a, b fs.FileInfo) bool         { return os.SameFile(a, b) }

func (osTree) RealPath(name string) (string, error) { return filepath.EvalSymlinks(name) }

func (osTree) OpenDir(name string) (Directory, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() { // opening a FIFO would wait
		return nil, fmt.Errorf("%s: not a directory: %w", name, ErrUnsupported)
	}
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return &osDirectory{root}, nil
}

// osDirectory is a Directory. Not even a symbolic link that is put there meanwhile leads
// out of it.
type osDirectory struct{ root *os.Root }

func (d *osDirectory) Open(name string) (RawFile, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, err
	}
	im, err := NewFile(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return im, nil
}

func (d *osDirectory) Stat(name string) (fs.FileInfo, error)  { return d.root.Stat(name) }
func (d *osDirectory) Lstat(name string) (fs.FileInfo, error) { return d.root.Lstat(name) }
func (d *osDirectory) Close() error                           { return d.root.Close() }

func (d *osDirectory) Entries() iter.Seq2[fs.DirEntry, error] {
	return func(yield func(fs.DirEntry, error) bool) {
		f, err := d.root.Open(".")
		if err != nil {
			yield(nil, err)
			return
		}
		defer f.Close() //nolint:errcheck // it was only read
		const atOnce = 1024
		for {
			entries, err := f.ReadDir(atOnce)
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					yield(nil, fmt.Errorf("%s: %w", d.root.Name(), err))
				}
				return
			}
		}
	}
}
