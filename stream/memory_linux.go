// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import "golang.org/x/sys/unix"

// allocate returns n bytes outside the Go heap: the collector would keep as
// much again in reserve for them. Huge pages save most of the page faults.
func allocate(n int) ([]byte, func(), error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, err
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // a kernel without them works as well
	return b, func() { _ = unix.Munmap(b) }, nil
}
