// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package command

import (
	"io"
	"os"
	"syscall"
)

// inherited returns the pipe that the caller has given this process under a
// number, or otherwise if there is none. Programs that are started do not get
// it: who reads it waits until all have closed it.
func inherited(fd int, otherwise io.Writer) io.Writer {
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return otherwise
	}
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFIFO, syscall.S_IFSOCK, syscall.S_IFCHR, syscall.S_IFREG:
	default: // one of our own, such as what the runtime waits with
		return otherwise
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "messages")
}
