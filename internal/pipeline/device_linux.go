// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"io/fs"
	"syscall"
)

// sameDevice reports if two device files, which may have several names, are
// for one device.
func sameDevice(a, b fs.FileInfo) bool {
	if a.Mode()&b.Mode()&fs.ModeDevice == 0 || a.Mode().Type() != b.Mode().Type() {
		return false
	}
	sa, ok := a.Sys().(*syscall.Stat_t)
	sb, ok2 := b.Sys().(*syscall.Stat_t)
	return ok && ok2 && sa.Rdev == sb.Rdev
}
