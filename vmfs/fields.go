// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"bytes"
	"encoding/binary"
)

// fields reads little-endian numbers of a structure, which is packed. Its length has
// been checked.
type fields []byte

func (f fields) u8(off int) uint8   { return f[off] }
func (f fields) u16(off int) uint16 { return binary.LittleEndian.Uint16(f[off:]) }
func (f fields) u32(off int) uint32 { return binary.LittleEndian.Uint32(f[off:]) }
func (f fields) u64(off int) uint64 { return binary.LittleEndian.Uint64(f[off:]) }
func (f fields) uuid(off int) UUID  { return UUID(f[off : off+16]) }

// text is what is in front of the first NUL of n bytes.
func (f fields) text(off, n int) string {
	b, _, _ := bytes.Cut(f[off:off+n], []byte{0})
	return string(b)
}

func isPowerOf2(n uint64) bool { return n != 0 && n&(n-1) == 0 }
