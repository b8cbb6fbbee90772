// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !unix

package child

import (
	"os"
	"os/exec"
	"time"
)

func ownGroup(*exec.Cmd) {}

func askGroup(pid int) { killGroup(pid) }

func killGroup(pid int) {
	if p, err := os.FindProcess(pid); err == nil {
		_ = p.Kill()
	}
}

func waitGroup(int, time.Duration) {}
