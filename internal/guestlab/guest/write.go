// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vmstream/vmstream/internal/guestlab/record"
)

const (
	churnEvery = 16        // records between two changes of other files
	churnFiles = 6         // that exist at a time
	churnBytes = 192 << 10 // of such a file

	fitrim = 0xc0185879 // _IOWR('X', 121, struct fstrim_range) of linux/fs.h
)

// writer writes records to all disks in turn.
type writer struct {
	dirs     []string
	progress io.Writer
	trims    <-chan struct{} // orders to discard what is free
	logs     []*os.File      // of the disks, open for record next
	next     uint64
	buf      [record.Size]byte
}

func (w *writer) run(until time.Time) error {
	if err := w.resume(); err != nil {
		return err
	}
	fmt.Fprintf(w.progress, "start %d %d\n", w.next, monotonic())
	for ; time.Now().Before(until); w.next++ {
		if err := w.write(); err != nil {
			return fmt.Errorf("record %d: %w", w.next, err)
		}
		// Durable on every disk: now it may be told.
		if _, err := fmt.Fprintf(w.progress, "rec %d %d\n", w.next, monotonic()); err != nil {
			return err
		}
		if w.next%churnEvery == 0 {
			for _, dir := range w.dirs {
				if err := churn(dir, w.next/churnEvery); err != nil {
					return err
				}
			}
		}
		if err := w.obey(); err != nil {
			return err
		}
	}
	return errors.New("lifetime is over")
}

// obey discards what is free on all disks if it was told to.
func (w *writer) obey() error {
	select {
	case <-w.trims:
	default:
		return nil
	}
	for _, dir := range w.dirs {
		if err := trim(dir); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w.progress, "trim %d\n", w.next)
	return err
}

// resume finds where an earlier run ended: the disks may come from a restore.
// A disk that is one record behind gets that record again.
func (w *writer) resume() error {
	w.next = 1
	for i, dir := range w.dirs {
		last, err := lastRecord(dir)
		if err != nil {
			return err
		}
		if i == 0 {
			w.next = last + 1
		} else if last+1 < w.next {
			w.next = last + 1
		}
	}
	w.logs = make([]*os.File, len(w.dirs))
	return nil
}

func lastRecord(dir string) (uint64, error) {
	dir = filepath.Join(dir, "records")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return 0, err
	}
	last := uint64(0)
	for {
		info, err := os.Stat(filepath.Join(dir, record.FileName(last+1)))
		switch {
		case errors.Is(err, os.ErrNotExist):
			return last, nil
		case err != nil:
			return 0, err
		}
		n := uint64(info.Size() / record.Size)
		last += n
		if n < record.PerFile {
			return last, nil
		}
	}
}

// write writes the next record to all disks, one after the other.
func (w *writer) write() error {
	for i, dir := range w.dirs {
		at := (w.next - 1) % record.PerFile
		if w.logs[i] == nil || at == 0 {
			if err := w.open(i, filepath.Join(dir, "records")); err != nil {
				return err
			}
		}
		record.Put(w.buf[:], record.Record{Number: w.next, Disk: uint64(i), Nanos: monotonic()})
		if _, err := w.logs[i].WriteAt(w.buf[:], int64(at)*record.Size); err != nil {
			return err
		}
		if err := w.logs[i].Sync(); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) open(i int, dir string) error {
	if w.logs[i] != nil {
		if err := w.logs[i].Close(); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(filepath.Join(dir, record.FileName(w.next)), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	w.logs[i] = f
	return syncDir(dir)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// churn makes a file, overwrites a part of an older one, gives another one a
// new name, and deletes the oldest.
func churn(dir string, n uint64) error {
	dir = filepath.Join(dir, "churn")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	name := func(i uint64) string { return filepath.Join(dir, fmt.Sprintf("file%06d", i)) }
	data := make([]byte, churnBytes)
	record.Fill(data, n)
	if err := os.WriteFile(name(n), data, 0o644); err != nil {
		return err
	}
	if n > churnFiles {
		if err := overwrite(name(n-2), data[:churnBytes/4]); err != nil {
			return err
		}
		if err := os.Rename(name(n-4), name(n-4)+".renamed"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for _, old := range []string{name(n - churnFiles), name(n-churnFiles) + ".renamed"} {
			if err := os.Remove(old); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// overwrite changes the second quarter of a file that may be gone: what was not
// synced is not there after a crash.
func overwrite(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, int64(len(b)))
	return errors.Join(err, f.Close())
}

// trim discards the free space of a file system, as fstrim does.
func trim(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close() // only read
	// struct fstrim_range of linux/fs.h: start, length, minimum length.
	span := [3]uint64{0, 1<<64 - 1, 64 << 10}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fitrim, uintptr(unsafe.Pointer(&span))) //nolint:gosec // an ioctl takes a pointer
	if errno != 0 && errno != unix.EOPNOTSUPP {
		return fmt.Errorf("trim %s: %w", dir, errno)
	}
	return nil
}
