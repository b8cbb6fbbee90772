// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsitest

import (
	"encoding/binary"
	"fmt"

	"github.com/vmstream/vmstream/scsi"
)

func (l *LUN) inquiry(cdb []byte) ([]byte, scsi.Result) {
	if cdb[1]&1 == 0 {
		b := make([]byte, 36)
		b[2], b[4] = 6, 31
		copy(b[8:], fmt.Sprintf("%-8.8s%-16.16s%-4.4s", l.o.Vendor, l.o.Model, "1.0"))
		return b, good
	}
	var body []byte
	switch page := cdb[2]; {
	case page == 0:
		body = []byte{0, 0x80, 0x83, 0xb0, 0xb2}
	case page == 0x80:
		body = []byte(l.o.Serial)
	case page == 0x83:
		vendor := fmt.Sprintf("%-8.8s%s", l.o.Vendor, l.o.Serial)
		body = append([]byte{2, 1, 0, byte(len(vendor))}, vendor...)
		if l.o.NAA != nil {
			body = append(append(body, 1, 3, 0, byte(len(l.o.NAA))), l.o.NAA...)
			body = append(body, 1, 0x14, 0, 4, 0, 0, 0, 1) // of the port
		}
	case page == 0xb0:
		body = make([]byte, 60)
		if l.o.Thin {
			binary.BigEndian.PutUint32(body[16:], 64)
			binary.BigEndian.PutUint32(body[20:], 1)
		}
	case page == 0xb2 && l.o.Thin:
		body = []byte{0, 0x80, 2, 0}
	default:
		return nil, badField
	}
	b := append([]byte{0, cdb[2], 0, 0}, body...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(body))) //nolint:gosec // small
	return b, good
}

// serviceAction is READ CAPACITY(16) or GET LBA STATUS.
func (l *LUN) serviceAction(cdb []byte) ([]byte, scsi.Result) {
	lba := binary.BigEndian.Uint64(cdb[2:])
	switch cdb[1] & 31 {
	case 0x10:
		b := make([]byte, 32)
		binary.BigEndian.PutUint64(b, l.o.Blocks-1)
		binary.BigEndian.PutUint32(b[8:], uint32(l.o.BlockBytes)) //nolint:gosec // small
		if l.o.Thin {
			b[14] |= 0x80
		}
		if l.o.Zero {
			b[14] |= 0x40
		}
		return b, good
	case 0x12:
		switch {
		case !l.o.Thin:
			return nil, badField
		case lba >= l.o.Blocks:
			return nil, outOfRange
		}
		return l.status(lba), good
	}
	return nil, badField
}

// status is the answer to GET LBA STATUS.
func (l *LUN) status(lba uint64) []byte {
	b := make([]byte, 8)
	for n := 0; lba < l.o.Blocks && (l.o.Ranges == 0 || n < l.o.Ranges); n++ {
		_, mapped := l.data[lba]
		end := lba
		for end < l.o.Blocks {
			if _, is := l.data[end]; is != mapped {
				break
			}
			end++
		}
		var e [16]byte
		binary.BigEndian.PutUint64(e[:], lba)
		binary.BigEndian.PutUint32(e[8:], uint32(end-lba)) //nolint:gosec // small
		if !mapped {
			e[12] = 1
		}
		b = append(b, e[:]...)
		lba = end
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4)) //nolint:gosec // small
	return b
}

func (l *LUN) unmap(out []byte) scsi.Result {
	if !l.o.Thin {
		return unknown
	}
	if len(out) < 8 {
		return badParameters
	}
	for list := out[8:]; len(list) >= 16; list = list[16:] {
		lba, n := binary.BigEndian.Uint64(list), uint64(binary.BigEndian.Uint32(list[8:]))
		if n > 64 || lba+n > l.o.Blocks {
			return outOfRange
		}
		for i := range n {
			delete(l.data, lba+i)
		}
	}
	return good
}

// move is READ(16) or WRITE(16).
func (l *LUN) move(c *scsi.Command) ([]byte, scsi.Result) {
	lba, n := binary.BigEndian.Uint64(c.CDB[2:]), int(binary.BigEndian.Uint32(c.CDB[10:]))
	if lba+uint64(n) > l.o.Blocks { //nolint:gosec // 32 bits
		return nil, outOfRange
	}
	size := l.o.BlockBytes
	if c.CDB[0] == 0x8a {
		if len(c.Out) != n*size {
			return nil, badField
		}
		for i := range n {
			l.data[lba+uint64(i)] = append([]byte(nil), c.Out[i*size:(i+1)*size]...)
		}
		return nil, good
	}
	b := make([]byte, n*size)
	for i := range n {
		if block, ok := l.data[lba+uint64(i)]; ok {
			copy(b[i*size:], block)
		} else if !l.o.Zero {
			b[i*size] = 0xaa
		}
	}
	return b, good
}

func (l *LUN) logSense(cdb []byte) ([]byte, scsi.Result) {
	if cdb[2]&0x3f != 0x2e || l.o.Alerts == nil {
		return nil, badField
	}
	b := make([]byte, 4+64*5)
	b[0] = 0x2e
	binary.BigEndian.PutUint16(b[2:], 64*5)
	for i := range 64 {
		b[4+i*5+1], b[4+i*5+3] = byte(i+1), 1
	}
	for _, a := range l.o.Alerts {
		b[4+(a-1)*5+4] = 1
	}
	l.o.Alerts = []int{}
	return b, good
}
