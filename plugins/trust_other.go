// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !unix

package plugins

import "io/fs"

// checksModes says that files have no modes that would tell who may write to them.
const checksModes = false

func (c *truster) safe(string, fs.FileInfo) error { return nil }
