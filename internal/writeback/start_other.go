// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !linux

package writeback

import "os"

func start(*os.File) {}
