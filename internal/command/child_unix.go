// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package command

import (
	"os/exec"
	"syscall"
)

// ownGroup gives a child a process group of its own: what a terminal sends to us does
// not reach it, since it has to be ended before its input is.
func ownGroup(x *exec.Cmd) { x.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// endGroup asks a child and what it has started to end, or kills them.
func endGroup(x *exec.Cmd, kill bool) {
	sig := syscall.SIGTERM
	if kill {
		sig = syscall.SIGKILL
	}
	_ = syscall.Kill(-x.Process.Pid, sig) // unless all have ended
}
