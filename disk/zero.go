// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import "bytes"

var zeroPage [64 << 10]byte

// IsZero reports if every byte of b is zero. It stops at the first block of
// 64 KiB that is not, and costs about a memory read otherwise.
func IsZero(b []byte) bool {
	// Data that is not zero mostly shows in its first bytes: look at a few
	// before the vector comparison is set up.
	if len(b) >= 16 && (b[0]|b[7]|b[15]) != 0 {
		return false
	}
	for len(b) > len(zeroPage) {
		if !bytes.Equal(b[:len(zeroPage)], zeroPage[:]) {
			return false
		}
		b = b[len(zeroPage):]
	}
	return bytes.Equal(b, zeroPage[:len(b)])
}
