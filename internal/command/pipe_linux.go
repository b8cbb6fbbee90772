// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// pipeBytes is the largest pipe that the kernel gives to everybody.
const pipeBytes = 1 << 20

// growPipe makes the buffer of a pipe larger, which saves most of the switches
// between its two ends. It is no loss if that fails.
func growPipe(v any) {
	f, ok := v.(*os.File)
	if !ok {
		return
	}
	if st, err := f.Stat(); err == nil && st.Mode()&fs.ModeNamedPipe != 0 {
		_, _ = unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, pipeBytes)
	}
}
