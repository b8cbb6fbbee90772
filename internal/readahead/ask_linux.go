// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package readahead

import (
	"os"

	"golang.org/x/sys/unix"
)

// ask asks in pieces: of a longer one, Linux reads only as much as it would read ahead.
func ask(f *os.File, from, to int64) {
	const piece = 128 << 10
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for ; from < to; from += piece {
			_ = unix.Fadvise(int(fd), from, min(piece, to-from), unix.FADV_WILLNEED)
		}
	})
}
