// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import "golang.org/x/sys/unix"

// FreeBytes returns how much room there is where path lies, for others than
// root; false if that is not known.
func FreeBytes(path string) (int64, bool) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, false
	}
	return int64(st.Bavail) * int64(st.Bsize), true // Bsize has 32 bits on some platforms
}
