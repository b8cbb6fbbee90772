// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qemu

import "golang.org/x/sys/unix"

// freeBytes returns how much room a directory has for others than root; false if
// that is not known.
func freeBytes(dir string) (int64, bool) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, false
	}
	return int64(st.Bavail) * st.Bsize, true
}
