// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package redo

import (
	"io/fs"
	"os"
	"syscall"
)

// takeOwner gives f the owner that st has, if this process may do that.
func takeOwner(f *os.File, st fs.FileInfo) {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		_ = f.Chown(int(sys.Uid), int(sys.Gid)) // the disk works without it
	}
}

// allocatedBytes returns what a file takes on disk.
func allocatedBytes(st fs.FileInfo) int64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return sys.Blocks * 512 // of stat(2), whatever the block size
	}
	return st.Size()
}
