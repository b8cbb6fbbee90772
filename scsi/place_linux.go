// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// deviceDir returns the directory that tells of the device with a node.
func (s Sysfs) deviceDir(st fs.FileInfo) (string, error) {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || st.Mode()&fs.ModeDevice == 0 {
		return "", fmt.Errorf("no device: %w", ErrNoDevice)
	}
	kind := "block"
	if st.Mode()&fs.ModeCharDevice != 0 {
		kind = "char"
	}
	rdev := uint64(sys.Rdev) //nolint:unconvert // it has 32 bits on some platforms
	name := fmt.Sprintf("%d:%d", unix.Major(rdev), unix.Minor(rdev))
	return filepath.EvalSymlinks(filepath.Join(s.root(), "dev", kind, name))
}
