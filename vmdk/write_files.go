// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vmstream/vmstream/disk"
)

// newFiles are the files of one disk that is being written: created by us and
// removed again if the disk is given up.
type newFiles struct {
	dir     string
	created []string // names in dir
}

// free returns an error if any of the names exists, so that a restore fails
// at its start and not when it reaches that file.
func (n *newFiles) free(names ...string) error {
	for _, name := range names {
		path := filepath.Join(n.dir, name)
		switch _, err := os.Lstat(path); {
		case err == nil:
			return &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	return nil
}

// create creates a file. Its owner alone can read it: a disk holds secrets.
func (n *newFiles) create(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(n.dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		n.created = append(n.created, name)
	}
	return f, err
}

// discard removes everything that was created.
func (n *newFiles) discard() error {
	var errs []error
	for _, name := range n.created {
		errs = append(errs, os.Remove(filepath.Join(n.dir, name)))
	}
	n.created = nil
	return errors.Join(errs...)
}

// descriptorFile is a descriptor in a file of its own. The file is there,
// empty, from the start, which keeps the name, and is filled at the end: an
// interrupted restore leaves no disk.
type descriptorFile struct {
	f    *os.File
	text []byte
}

func (n *newFiles) reserve(name string, text []byte) (*descriptorFile, error) {
	f, err := n.create(name)
	if err != nil {
		return nil, err
	}
	return &descriptorFile{f, text}, nil
}

func (d *descriptorFile) complete() error {
	_, err := d.f.WriteAt(d.text, 0)
	if err == nil {
		err = d.f.Sync()
	}
	return errors.Join(err, d.close())
}

// close closes the file; a second call does nothing.
func (d *descriptorFile) close() error {
	if d.f == nil {
		return nil
	}
	f := d.f
	d.f = nil
	return f.Close()
}

// complete makes the names durable.
func (n *newFiles) complete() error { return disk.SyncDir(n.dir) }
