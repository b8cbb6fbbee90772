// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"os"
	"syscall"
)

// residentOf returns the largest resident size of a process that has ended, in bytes.
func residentOf(p *os.ProcessState) int64 {
	if u, ok := p.SysUsage().(*syscall.Rusage); ok {
		return u.Maxrss << 10
	}
	return 0
}
