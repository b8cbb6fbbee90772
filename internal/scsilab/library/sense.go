// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package library

import (
	"encoding/binary"
	"fmt"
)

// Sense keys and flags of SPC and SSC.
const (
	keyNone     = 0x0
	keyNotReady = 0x2
	keyHardware = 0x4
	keyIllegal  = 0x5
	keyUnit     = 0x6
	keyBlank    = 0x8
	keyOverflow = 0xd

	flagMark   = 0x80
	flagEnd    = 0x40
	flagLength = 0x20
)

// result is the answer to a command.
type result struct {
	sense []byte // a check condition, if there is some
	data  []byte // to the initiator
	short bool   // there may be less of it than was asked for
}

// sense is a check condition with a key, with flags, and an additional code.
func sense(key byte, code uint16) result {
	b := make([]byte, 18)
	b[0], b[2], b[7] = 0x70, key, 10
	binary.BigEndian.PutUint16(b[12:], code)
	return result{sense: b}
}

// senseLeft is one that says how much was not done.
func senseLeft(key byte, code uint16, left int64) result {
	r := sense(key, code)
	r.sense[0] |= 0x80
	binary.BigEndian.PutUint32(r.sense[3:], uint32(left)) //nolint:gosec // two's complement
	return r
}

func illegalCommand() result { return sense(keyIllegal, 0x2000) }
func illegalField() result   { return sense(keyIllegal, 0x2400) }

// clip is data of which the initiator has room for n bytes.
func clip(b []byte, n int) result { return result{data: b[:min(n, len(b))], short: true} }

func be16(b []byte) int { return int(binary.BigEndian.Uint16(b)) }
func be24(b []byte) int { return int(b[0])<<16 | be16(b[1:]) }

// inquiry answers INQUIRY for a device type.
func inquiry(cdb []byte, kind byte, product, serial string) result {
	room := be16(cdb[3:])
	if cdb[1]&1 == 0 {
		b := append([]byte{kind, 0x80, 6, 2, 31, 0, 0, 0}, fmt.Sprintf("%-8.8s%-16.16s%-4.4s", "VMSTREAM", product, "1")...)
		return clip(b, room)
	}
	page := func(body []byte) result {
		return clip(append([]byte{kind, cdb[2], 0, byte(len(body))}, body...), room)
	}
	switch cdb[2] {
	case 0x00:
		return page([]byte{0x00, 0x80, 0x83})
	case 0x80:
		return page([]byte(serial))
	case 0x83:
		id := fmt.Sprintf("%-8.8s%-16.16s%s", "VMSTREAM", product, serial)
		return page(append([]byte{2, 1, 0, byte(len(id))}, id...))
	}
	return illegalField()
}
