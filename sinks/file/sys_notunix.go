// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !unix

package file

import (
	"io/fs"
	"os"
)

func inode(fs.FileInfo) string { return "" }

func lock(*os.File, bool) error { return nil }
