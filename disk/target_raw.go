// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vmstream/vmstream/internal/writeback"
)

// RawTarget is a raw disk being written to a new regular file. It is a
// [Writer]; WriteAt is safe for concurrent use.
type RawTarget struct {
	f      *writeback.File
	size   int64
	failed firstError
	done   bool
}

var _ Writer = (*RawTarget)(nil)

// CreateRaw creates path, which must not exist, as a raw disk of sizeBytes
// bytes; sizeBytes need not be a multiple of a sector. What is never written
// is a hole. The file is readable and writable by its owner only.
func CreateRaw(path string, sizeBytes int64) (*RawTarget, error) {
	if sizeBytes < 0 {
		return nil, fmt.Errorf("%s: size of %d bytes: %w", path, sizeBytes, fs.ErrInvalid)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	t := &RawTarget{f: writeback.New(f), size: sizeBytes}
	if err := f.Truncate(sizeBytes); err != nil {
		t.Abort()
		return nil, fmt.Errorf("size of %d bytes: %w", sizeBytes, err)
	}
	return t, nil
}

// WriteAt writes p at the offset off. The last write may reach to the end of
// the sector in which the disk ends, if it has zeros there.
func (t *RawTarget) WriteAt(p []byte, off int64) (int, error) {
	n, err := clipWrite(p, off, t.size)
	if err != nil {
		err = fmt.Errorf("%s: %w", t.f.Name(), err)
	} else {
		n, err = t.f.WriteAt(p[:n], off)
	}
	if err != nil {
		t.failed.set(err)
		return n, err
	}
	return len(p), nil
}

// Ordered returns false.
func (t *RawTarget) Ordered() bool { return false }

// Close makes the file and its name durable. If that fails, or if a write has
// failed, the file is removed.
func (t *RawTarget) Close() error {
	if t.done {
		return fmt.Errorf("%s: %w", t.f.Name(), fs.ErrClosed)
	}
	err := t.failed.get()
	if err == nil {
		err = t.f.Sync()
	}
	if err == nil {
		t.done = true
		err = t.f.Close()
	}
	if err == nil {
		err = SyncDir(filepath.Dir(t.f.Name()))
	}
	if err != nil {
		err = errors.Join(err, t.remove())
	}
	return err
}

// Abort removes the file. It does nothing after Close.
func (t *RawTarget) Abort() {
	if !t.done {
		// There is nobody to tell; a file that cannot be removed has no
		// success reported for it either.
		_ = t.remove()
	}
}

func (t *RawTarget) remove() error {
	if !t.done {
		t.done = true
		_ = t.f.Close() // its content does not matter any more
	}
	return os.Remove(t.f.Name())
}
