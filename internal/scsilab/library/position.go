// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package library

import "encoding/binary"

// Codes of SPACE.
const (
	spaceBlocks = 0
	spaceMarks  = 1
	spaceEnd    = 3
)

func (d *Drive) space(code byte, n int64) result {
	switch {
	case code == spaceEnd:
		d.pos = len(d.cart.records)
		return result{}
	case code != spaceBlocks && code != spaceMarks:
		return illegalField()
	case n < 0:
		return d.spaceBack(code, -n)
	}
	for n > 0 {
		if d.pos >= len(d.cart.records) {
			return senseLeft(keyBlank, 0x0005, n)
		}
		mark := d.cart.records[d.pos].data == nil
		d.pos++
		if code == spaceBlocks && mark {
			return senseLeft(keyNone|flagMark, 0x0001, n)
		}
		if code == spaceBlocks || mark {
			n--
		}
	}
	return result{}
}

func (d *Drive) spaceBack(code byte, n int64) result {
	for n > 0 {
		if d.pos == 0 {
			return senseLeft(keyNone|flagEnd, 0x0004, n)
		}
		d.pos--
		mark := d.cart.records[d.pos].data == nil
		if code == spaceBlocks && mark {
			return senseLeft(keyNone|flagMark, 0x0001, n)
		}
		if code == spaceBlocks || mark {
			n--
		}
	}
	return result{}
}

func (d *Drive) locate(n int) result {
	if n > len(d.cart.records) {
		d.pos = len(d.cart.records)
		return sense(keyBlank, 0x0005)
	}
	d.pos = n
	return result{}
}

// position answers READ POSITION, the short form.
func (d *Drive) position(cdb []byte) result {
	if cdb[1]&0x1f > 1 {
		return illegalField()
	}
	b := make([]byte, 20)
	if d.pos == 0 {
		b[0] |= 0x80
	}
	if d.cart.warned() && d.pos == len(d.cart.records) {
		b[0] |= 0x40
	}
	binary.BigEndian.PutUint32(b[4:], uint32(d.pos)) //nolint:gosec // a tape in memory
	binary.BigEndian.PutUint32(b[8:], uint32(d.pos)) //nolint:gosec // the same
	return clip(b, len(b))
}

// pages of MODE SENSE that st looks at: data compression, device configuration.
func modePages(page byte) []byte {
	var b []byte
	if page == 0x0f || page == 0x3f {
		b = append(b, append([]byte{0x0f, 14, 0x40, 0x80}, make([]byte, 12)...)...)
	}
	if page == 0x10 || page == 0x3f {
		b = append(b, append([]byte{0x10, 14, 0, 0, 0, 0, 0, 0, 0x40}, make([]byte, 7)...)...)
	}
	return b
}

func (d *Drive) modeSense(cdb []byte) result {
	page, noDescriptor := cdb[2]&0x3f, cdb[1]&8 != 0
	pages := modePages(page)
	if pages == nil && page != 0 {
		return illegalField()
	}
	const buffered = 0x10
	b := []byte{0, 0, buffered, 0}
	if !noDescriptor {
		b[3] = 8
		b = append(b, 0, 0, 0, 0, 0, byte(d.block>>16), byte(d.block>>8), byte(d.block)) //nolint:gosec // 24 bits
	}
	b = append(b, pages...)
	b[0] = byte(len(b) - 1) //nolint:gosec // a few pages
	return clip(b, int(cdb[4]))
}

func (d *Drive) modeSelect(in []byte) result {
	if len(in) < 12 || in[3] < 8 {
		return result{}
	}
	n := be24(in[9:])
	if n > maxBlock {
		return sense(keyIllegal, 0x2600)
	}
	d.block = n
	return result{}
}
