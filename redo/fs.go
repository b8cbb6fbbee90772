// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// File is a file open for writing.
type File interface {
	vmdk.ExtentFile
	io.Closer
}

// FS is everything by which this package changes a file system. Reading goes to
// the operating system. What is written is durable after the file's Sync; that
// a name was created, replaced or removed is durable after SyncDir.
type FS interface {
	// Create creates a file, which must not exist, for reading and writing. It
	// gets the permissions and, as far as possible, the owner of the file like.
	Create(path, like string) (File, error)
	// Open opens an existing regular file for reading and writing.
	Open(path string) (File, error)
	// Rename renames a file, atomically replacing what is called newPath.
	Rename(oldPath, newPath string) error
	Remove(path string) error
	SyncDir(dir string) error
}

// OS returns the file system of the operating system.
func OS() FS { return osFS{} }

type osFS struct{}

// Create creates a file like another.
func (osFS) Create(path, like string) (File, error) {
	st, err := os.Stat(like)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	takeOwner(f, st) // only root can give files away
	if err := f.Chmod(st.Mode().Perm()); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return f, nil
}

// CopyOwner gives a file the permissions and, as far as possible, the owner of the file like.
func CopyOwner(path, like string) (err error) {
	st, err := os.Stat(like)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	takeOwner(f, st)
	return errors.Join(f.Chmod(st.Mode().Perm()), f.Close())
}

// Open opens a file for writing.
func (osFS) Open(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Rename renames a file.
func (osFS) Rename(oldPath, newPath string) error { return os.Rename(oldPath, newPath) }

// Remove removes a file.
func (osFS) Remove(path string) error { return os.Remove(path) }

// SyncDir makes names durable.
func (osFS) SyncDir(dir string) error { return disk.SyncDir(dir) }

// tmpSuffix is behind the name of a file while its content is being written.
// The name is always the same, so that the next run finds what one has left.
const tmpSuffix = ".vmstream-tmp"

// writeFile makes a file of this name appear, complete and durable: the old
// one, if there is one, or the new one is there, whatever happens.
func writeFile(fsys FS, path, like string, fill func(File) error) error {
	tmp := path + tmpSuffix
	if err := removeIfThere(fsys, tmp); err != nil {
		return err
	}
	f, err := fsys.Create(tmp, like)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, removeIfThere(fsys, tmp))
	}
	if err := fsys.Rename(tmp, path); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(path))
}

// ReplaceFile gives a file that exists a new content, atomically and durably:
// after a crash it has the old or the new one. Owner and permissions stay.
func ReplaceFile(fsys FS, path string, content []byte) error {
	return writeFile(fsys, path, path, func(f File) error { return writeAll(f, content) })
}

func writeAll(f File, content []byte) error {
	_, err := f.WriteAt(content, 0)
	return err
}

// removeIfThere removes a file; a file that does not exist is fine.
func removeIfThere(fsys FS, path string) error {
	if !exists(path) {
		return nil
	}
	return fsys.Remove(path)
}
