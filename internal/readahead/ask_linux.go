// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package readahead

import (
	"os"

	"golang.org/x/sys/unix"
)

// ask asks in pieces: of a longer one, Linux reads only as much as it would read ahead.
func ask(f *os.File, from, to int64) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for ; from < to; from += short {
			_ = unix.Fadvise(int(fd), from, min(short, to-from), unix.FADV_WILLNEED)
		}
	})
}
