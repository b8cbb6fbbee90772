// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package netbackup

import (
	"io"
	"os"
	"syscall"
	"time"
)

// rest is a second reader of a pipe. It reads nothing while somebody else may, and
// then what nobody has read.
type rest struct{ f *os.File }

func openRest(path string) (*rest, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return &rest{f}, nil
}

// close returns how much was left, if the reader has ended.
func (r *rest) close(ended bool) int64 {
	if r == nil {
		return 0
	}
	defer r.f.Close() // only read
	if !ended {
		return 0
	}
	const most = 64 << 20 // a pipe holds less
	_ = r.f.SetReadDeadline(time.Now().Add(time.Second))
	n, _ := io.Copy(io.Discard, io.LimitReader(r.f, most)) // a pipe that cannot be read has nothing left
	return n
}
