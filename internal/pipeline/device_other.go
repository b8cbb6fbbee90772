// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !linux

package pipeline

import "io/fs"

func sameDevice(fs.FileInfo, fs.FileInfo) bool { return false }
