// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package process

import (
	"os/exec"
	"syscall"
	"time"
)

// ownGroup gives a command a process group of its own, which is ended as a
// whole: what a terminal sends to us does not reach it, and what it has started
// does not outlive it if it is killed.
func ownGroup(x *exec.Cmd) {
	x.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	x.Cancel = func() error {
		group := -x.Process.Pid
		err := syscall.Kill(group, syscall.SIGTERM)
		time.AfterFunc(grace/2, func() { _ = syscall.Kill(group, syscall.SIGKILL) }) // unless all have ended
		return err
	}
}
