// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import "golang.org/x/sys/unix"

// freeBytes returns what is free for us on the file system of dir.
func freeBytes(dir string) (int64, bool) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, false
	}
	return int64(st.Bavail) * st.Bsize, true
}

// exchange gives each of two files or directories the other's name.
func exchange(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}
