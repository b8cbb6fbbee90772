// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/vmstream/vmstream/disk"
)

// sharing is what others may do with a file meanwhile.
type sharing bool

const (
	readersAllowed sharing = true  // as while a redo log is put over a disk
	exclusive      sharing = false // as while a disk is written to
)

// checkUse returns an error if one of the files seems to be in use: there is a
// lock beside it, as VMware products leave it, or a process of this host has it
// open. It is a check of a moment; who opens the file later is not kept out.
func checkUse(s sharing, paths ...string) error {
	for _, p := range paths {
		if lock := p + ".lck"; exists(lock) && !emptyDir(lock) {
			return inUse(p, "there is a lock, "+lock)
		}
		if why := openByOthers(p, s); why != "" {
			return inUse(p, why)
		}
	}
	return nil
}

// CheckWriters returns an error (disk.ErrInUse) if one of the files seems to be
// open for writing: there is a lock of a VMware product beside it, or a process of
// this host has it open so. Who only reads is let be. Devices and file systems
// that know neither leases nor locks cannot be told about.
func CheckWriters(paths ...string) error { return checkUse(readersAllowed, paths...) }

// CheckOpen returns an error (disk.ErrInUse) if another process of this host, or
// this one, has one of the files open in any way. Locks beside it do not count.
func CheckOpen(paths ...string) error {
	for _, p := range paths {
		if why := openByOthers(p, exclusive); why != "" {
			return inUse(p, why)
		}
	}
	return nil
}

func inUse(path, why string) error {
	return &disk.FormatError{
		File: path, Offset: -1, Err: disk.ErrInUse,
		Detail: why + "; power the VM off, or end what uses the disk",
	}
}

// emptyDir reports if path is a directory without entries: what is left of a
// lock that was given back.
func emptyDir(path string) bool {
	d, err := os.Open(path)
	if err != nil {
		return false
	}
	_, err = d.Readdirnames(1)
	return d.Close() == nil && errors.Is(err, io.EOF)
}

// lockDir keeps other processes of this package out of a directory until the
// returned function is called.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if !tryLock(d) {
		err := fmt.Errorf("%s: another command works on redo logs in this directory: %w", dir, disk.ErrInUse)
		return nil, errors.Join(err, d.Close())
	}
	return func() { _ = d.Close() }, nil // which ends the lock
}
