// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import "golang.org/x/sys/unix"

// exchange gives each of two files or directories the other's name.
func exchange(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}
