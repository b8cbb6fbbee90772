// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import "unsafe"

// pageBytes is what host adapters want the address of a buffer to be a multiple of,
// at most. From others the driver copies, and then says that a block is on the tape
// before it is.
const pageBytes = 4096

// aligned returns n bytes that begin with a page.
func aligned(n int) []byte {
	b := make([]byte, n+pageBytes)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (pageBytes - 1))
	return b[skip : skip+n : skip+n]
}
