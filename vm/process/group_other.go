// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !unix

package process

import "os/exec"

func ownGroup(*exec.Cmd) {}
