// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package plugins

import "syscall"

// killGroup ends all processes of a group.
func killGroup(leader int) { _ = syscall.Kill(-leader, syscall.SIGKILL) } // none may be left
