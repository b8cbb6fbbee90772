// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package writeback

import (
	"os"

	"golang.org/x/sys/unix"
)

// start has the system begin to write out what the file holds. What fails there is told
// by the sync.
func start(f *os.File) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.SyncFileRange(int(fd), 0, 0, unix.SYNC_FILE_RANGE_WRITE) })
}
