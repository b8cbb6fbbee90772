// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"syscall"
)

// clipWrite returns how many of the bytes of p, written at off, lie inside a
// disk of size bytes. Writes are whole sectors and a raw disk may end inside a
// sector: there the rest of that sector must be zero, or data would be lost.
func clipWrite(p []byte, off, size int64) (int, error) {
	if off < 0 || off > size {
		return 0, fmt.Errorf("write at %d: the disk has %d bytes: %w", off, size, fs.ErrInvalid)
	}
	room := size - off
	if int64(len(p)) <= room {
		return len(p), nil
	}
	// size%SectorSize == 0 leaves nothing to clip.
	tail := (SectorSize - size%SectorSize) % SectorSize
	if int64(len(p))-room > tail || !IsZero(p[room:]) {
		return 0, fmt.Errorf("write of %d bytes at %d: the disk has only %d bytes: %w", len(p), off, size, fs.ErrInvalid)
	}
	return int(room), nil
}

// firstError keeps the first error of several writers.
type firstError struct {
	mu  sync.Mutex
	err error
}

func (e *firstError) set(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.err = err
	}
}

func (e *firstError) get() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// SyncDir makes the names in the directory dir durable: a file that was
// created or renamed there is still there after a crash. Where directories
// cannot be synced it does nothing.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	// Some FUSE and network file systems have no fsync for directories.
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, d.Close())
}
