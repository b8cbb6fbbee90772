// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/vmstream/vmstream/disk"
)

// CopyKind says what a directory with a configuration is.
type CopyKind int

// The kinds of copies.
const (
	NoCopy    CopyKind = iota // the machine itself
	CopyFound                 // raw disks may have become segments with a descriptor: that is found out
	CopyRaw                   // raw disks are raw disks
	CopyVMDK                  // raw disks have become VMDKs
)

// copied reports if a disk is in the copy, and finds out if it is raw there.
func (vm *VM) copied(ref *DiskRef, r resolver, kind CopyKind) (bool, error) {
	path := filepath.Join(r.dir, ref.File.Base)
	_, err := os.Stat(path)
	if notThere(err) {
		vm.warn("%s: the disk %q (%s) is not in the copy: left out", ref.Key, ref.File.Written, ref.Mode)
		return false, nil
	}
	switch {
	case err != nil || !ref.Raw:
	case kind == CopyFound:
		ref.Raw, err = isRawCopy(path)
	case kind == CopyVMDK:
		ref.Raw = false
	}
	return true, err
}

// maxDescriptorBytes is as long as a descriptor can be: see package vmdk.
const maxDescriptorBytes = 1 << 20

var descriptorMagic = []byte("# Disk DescriptorFile")

// isRawCopy reports if the file is a raw disk. A guest can write what it likes
// to the beginning of one, but not make it short and all text, as a descriptor
// is. A sparse extent with a descriptor in it cannot be told from a disk to which
// a guest has written its first sectors: that is an error.
func isRawCopy(path string) (raw bool, err error) {
	f, err := disk.OpenRegular(path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return false, err
	}
	magic := make([]byte, 4)
	if n, _ := f.ReadAt(magic, 0); n == len(magic) && (string(magic) == "KDMV" || string(magic) == "COWD") {
		return false, &disk.FormatError{
			File: path, Format: "disk of ESX 2.x", Offset: 0, Err: disk.ErrUnsupported,
			Detail: "it begins as a sparse VMDK does, and may be one or a raw disk: say --source-format vmdk or raw",
		}
	}
	if st.Size() > maxDescriptorBytes {
		return true, nil
	}
	b, err := io.ReadAll(io.LimitReader(f, maxDescriptorBytes))
	if err != nil {
		return false, err
	}
	return !bytes.HasPrefix(b, descriptorMagic) || bytes.IndexByte(b, 0) >= 0, nil
}
