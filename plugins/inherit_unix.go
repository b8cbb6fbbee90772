// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package plugins

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Descriptors of the pipes, see pipesValue.
const (
	inDescriptor  = 3
	outDescriptor = 4 // the first of outCount
)

// inherited returns the pipes that the host has given us, and closes what else we
// have from it or from whoever has started it. What this process has opened itself
// is closed on exec, which is how to tell.
func inherited(pipes bool) (in *os.File, out []*os.File) {
	for _, fd := range descriptors() {
		given := pipes && fd >= inDescriptor && fd < outDescriptor+outCount
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if fd > 2 && !given && err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd) // nobody knows what it is
		}
	}
	if !pipes {
		return nil, nil
	}
	for fd := inDescriptor; fd < outDescriptor+outCount; fd++ {
		unix.CloseOnExec(fd) // what a sink starts has no business with them
		if unix.SetNonblock(fd, true) != nil {
			return nil, nil // no such file: data comes in messages
		}
	}
	for fd := outDescriptor; fd < outDescriptor+outCount; fd++ {
		out = append(out, os.NewFile(uintptr(fd), "data from the sink"))
	}
	return os.NewFile(inDescriptor, "data to the sink"), out
}

// descriptors are those that are open, as far as the system tells.
func descriptors() []int {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	var all []int
	for _, n := range names {
		if fd, err := strconv.Atoi(n.Name()); err == nil {
			all = append(all, fd)
		}
	}
	return all
}
