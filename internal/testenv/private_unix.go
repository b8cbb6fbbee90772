// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package testenv

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// PrivateDir returns a new directory that nobody but root and ourselves can put
// something into, also by way of a directory above it, as plugins must be in one.
// That of TempDir is none: it is in /tmp.
func PrivateDir(tb testing.TB) string {
	tb.Helper()
	above := []string{filepath.Join(Root(tb), "bin")}
	if home, err := os.UserHomeDir(); err == nil {
		above = append(above, home)
	}
	for _, d := range above {
		if os.MkdirAll(d, 0o755) != nil || !private(d) {
			continue
		}
		dir, err := os.MkdirTemp(d, "test-")
		if err != nil {
			continue
		}
		tb.Cleanup(func() { _ = os.RemoveAll(dir) }) // what is left is in nobody's way
		return dir
	}
	Missing(tb, "needs a directory that others may not write to, here or in the home directory")
	return ""
}

func private(dir string) bool {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	for {
		var st syscall.Stat_t
		if err := syscall.Stat(dir, &st); err != nil || st.Mode&0o022 != 0 || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
		dir = filepath.Dir(dir)
	}
}
