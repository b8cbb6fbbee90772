// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import "golang.org/x/sys/unix"

// allocate returns n bytes outside the Go heap: the collector would keep as much
// again in reserve for them. Pages that are not used cost nothing.
func allocate(n int64) ([]byte, func(), error) {
	b, err := unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, err
	}
	return b, func() { _ = unix.Munmap(b) }, nil
}
