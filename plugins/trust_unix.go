// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package plugins

import (
	"io/fs"
	"os"
	"syscall"
)

// checksModes says that files have owners and modes.
const checksModes = true

// safe refuses a file or directory that somebody else than root and ourselves may
// write to. A sticky bit is no help: it keeps others from removing what is there,
// not from putting there what is not.
func (c *truster) safe(path string, i fs.FileInfo) error {
	s, ok := i.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return untrusted("%s: its owner is not known", path)
	case s.Uid != 0 && int(s.Uid) != os.Geteuid():
		return untrusted("%s belongs to user %d, neither to root nor to you", path, s.Uid)
	case i.Mode().Perm()&0o022 != 0:
		return untrusted("%s may be written to by others (mode %v): chmod go-w", path, i.Mode())
	}
	return nil
}
