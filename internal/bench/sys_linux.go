// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"syscall"
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
