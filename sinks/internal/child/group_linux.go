// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package child

import (
	"fmt"
	"os"
	"syscall"
)

// dieWithUs has the kernel kill the program when our process dies.
func dieWithUs(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }

// CloseStdin gives the program the end of its input. unread tells, once the program
// has ended, how much of it nobody has read; it is called once.
func (p *Process) CloseStdin() (unread func() (bytes int64, err error), err error) {
	// A reader of our own, opened late: it keeps what is in the pipe, and while
	// data is written it would hide that the program reads no more.
	probe, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", p.fd()), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	cerr := p.Stdin.Close()
	if err != nil { // no /proc
		return func() (int64, error) { return 0, nil }, cerr
	}
	return func() (int64, error) {
		defer func() { _ = probe.Close() }()
		return count(probe)
	}, cerr
}

// fd returns the descriptor of stdin and leaves it non-blocking.
func (p *Process) fd() (fd uintptr) {
	c, err := p.Stdin.SyscallConn()
	if err == nil {
		_ = c.Control(func(f uintptr) { fd = f })
	}
	return fd
}
