// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// peakRSS returns the most memory that a process had resident, in bytes. Linux
// counts in what its parent had when it started it, so this program keeps its
// own buffers small.
func peakRSS(s *os.ProcessState) int64 {
	if u, ok := s.SysUsage().(*syscall.Rusage); ok {
		return u.Maxrss << 10
	}
	return 0
}

// forget has what is read next of files come from the disk. What has been written to
// them is there already.
func forget(names ...string) error {
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		f.Close()
		if err != nil {
			return &os.PathError{Op: "fadvise", Path: name, Err: err}
		}
	}
	return nil
}
