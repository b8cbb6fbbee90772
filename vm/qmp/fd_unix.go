// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package qmp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// writeFile writes a line with a file descriptor beside it.
func writeFile(conn net.Conn, line []byte, file *os.File) error {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("a file descriptor passes a unix socket only: %w", errors.ErrUnsupported)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var werr error
	err = raw.Control(func(fd uintptr) {
		var n int
		n, _, werr = u.WriteMsgUnix(line, unix.UnixRights(int(fd)), nil)
		if werr == nil && n < len(line) {
			werr = io.ErrShortWrite
		}
	})
	return errors.Join(err, werr)
}
