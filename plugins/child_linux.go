// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	pipeBytes = 1 << 20 // what an unprivileged user may ask for

	// spareDescriptors is more than the child's own files are moved up by, on the way
	// to its start, from the highest that one of them has here.
	spareDescriptors = 64
)

// isolate gives the process a group of its own, so that what a terminal sends to us
// does not reach it, and an end with ours. What is executed is the file that was
// looked at, also if its name stands for another one by now; of a script the
// interpreter looks at the name.
func (c *child) isolate() (release func(), err error) {
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if c.image == nil || c.image.script {
		return func() {}, nil
	}
	highest := uintptr(0)
	for _, f := range c.theirs {
		highest = max(highest, f.Fd())
	}
	fd, err := unix.FcntlInt(c.image.file.Fd(), unix.F_DUPFD_CLOEXEC, int(highest)+spareDescriptors)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	path := "/proc/self/fd/" + strconv.Itoa(fd)
	if _, err := os.Stat(path); err == nil { // /proc is there
		c.cmd.Path = path
	}
	return func() { _ = unix.Close(fd) }, nil
}

// widen makes room in a pipe. A smaller one does as well, slower.
func widen(f *os.File) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeBytes) })
}
