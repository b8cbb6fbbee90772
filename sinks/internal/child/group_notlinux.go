// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix && !linux

package child

import "syscall"

func dieWithUs(*syscall.SysProcAttr) {}
