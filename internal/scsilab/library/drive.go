// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package library

import (
	"bytes"
	"encoding/binary"
)

// maxBlock is the length of the longest block.
const maxBlock = 8 << 20

// Drive is a tape drive.
type Drive struct {
	Serial string

	cart   *Cartridge
	ready  bool // the cartridge is threaded
	pos    int  // record before which the tape is
	block  int  // length of fixed blocks
	locked bool // the cartridge must stay
	events []uint16
	dirty  bool // it wants to be cleaned, as after each load
}

// Load puts a cartridge into the drive. Its next command gets a unit attention.
func (d *Drive) Load(c *Cartridge) {
	d.cart, d.pos, d.ready, d.dirty = c, 0, true, true
	d.events = append(d.events, 0x2800)
}

// notReady is the answer of a drive without a tape.
func notReady() result { return sense(keyNotReady, 0x3a00) }

// execute answers a command. in is what the initiator sends with it.
func (d *Drive) execute(cdb, in []byte) result {
	switch cdb[0] {
	case 0x12:
		return inquiry(cdb, 1, "LAB TAPE", d.Serial)
	case 0x03: // REQUEST SENSE
		return clip(sense(keyNone, 0).sense, int(cdb[4]))
	}
	if len(d.events) > 0 {
		code := d.events[0]
		d.events = d.events[1:]
		return sense(keyUnit, code)
	}
	switch cdb[0] {
	case 0x05: // READ BLOCK LIMITS
		return clip([]byte{0, maxBlock >> 16, 0, 0, 0, 1}, 6)
	case 0x1a:
		return d.modeSense(cdb)
	case 0x15:
		return d.modeSelect(in)
	case 0x1e: // PREVENT ALLOW MEDIUM REMOVAL
		d.locked = cdb[4]&1 == 1
		return result{}
	case 0x1b:
		return d.loadUnload(cdb)
	case 0x4d:
		return d.logSense(cdb)
	}
	if d.cart == nil || !d.ready {
		return notReady()
	}
	return d.move(cdb, in)
}

// move answers commands that need a tape.
func (d *Drive) move(cdb, in []byte) result {
	switch cdb[0] {
	case 0x00: // TEST UNIT READY
		return result{}
	case 0x01: // REWIND
		d.pos = 0
		return d.flushed(result{}, false)
	case 0x08:
		return d.read(cdb)
	case 0x0a:
		return d.write(cdb, in)
	case 0x10:
		return d.writeMarks(cdb)
	case 0x11:
		n := int64(be24(cdb[2:]))
		if n&0x800000 != 0 {
			n -= 1 << 24
		}
		return d.space(cdb[1]&7, n)
	case 0x2b:
		return d.locate(int(binary.BigEndian.Uint32(cdb[3:])))
	case 0x34:
		return d.position(cdb)
	}
	return illegalCommand()
}

// flushed has what waits go to the tape.
func (d *Drive) flushed(r result, less bool) result {
	if err := d.cart.flush(less); err != nil {
		return sense(keyHardware, 0x4400)
	}
	return r
}

// logSense tells of TapeAlert flags, of which the drive has two, and clears them.
func (d *Drive) logSense(cdb []byte) result {
	const page, tooOld, cleanNow = 0x2e, 7, 20
	if cdb[2]&0x3f != page {
		return illegalField()
	}
	b := []byte{page, 0, 0, 10, 0, tooOld, 0, 1, 0, 0, cleanNow, 0, 1, 0}
	if d.dirty {
		b[13] = 1
	}
	d.dirty = false
	return clip(b, be16(cdb[7:]))
}

func (d *Drive) loadUnload(cdb []byte) result {
	switch load := cdb[4]&1 == 1; {
	case d.cart == nil:
		return notReady()
	case load && !d.ready:
		d.Load(d.cart)
	case load:
		d.pos = 0
	case d.locked:
		return sense(keyIllegal, 0x5302)
	default:
		d.ready, d.pos = false, 0
		return d.flushed(result{}, false)
	}
	return result{}
}

func (d *Drive) read(cdb []byte) result {
	fixed, anyLength := cdb[1]&1 != 0, cdb[1]&2 != 0
	n := be24(cdb[2:])
	switch {
	case fixed && (anyLength || d.block == 0):
		return illegalField()
	case n == 0:
		return result{}
	case fixed:
		return d.readFixed(n)
	case d.pos >= len(d.cart.records):
		return senseLeft(keyBlank, 0x0005, int64(n))
	}
	r := d.cart.records[d.pos]
	d.pos++
	if r.data == nil {
		return senseLeft(keyNone|flagMark, 0x0001, int64(n))
	}
	data := r.data[:min(n, len(r.data))]
	if len(r.data) == n || anyLength {
		return result{data: data, short: true}
	}
	other := senseLeft(keyNone|flagLength, 0, int64(n)-int64(len(r.data)))
	other.data, other.short = data, true
	return other
}

func (d *Drive) readFixed(n int) result {
	var out []byte
	for i := range n {
		left := int64(n - i)
		var r result
		switch records := d.cart.records; {
		case d.pos >= len(records):
			r = senseLeft(keyBlank, 0x0005, left)
		case records[d.pos].data == nil:
			d.pos++
			r = senseLeft(keyNone|flagMark, 0x0001, left)
		case len(records[d.pos].data) != d.block:
			d.pos++
			r = senseLeft(keyNone|flagLength, 0, left)
		default:
			out = append(out, records[d.pos].data...)
			d.pos++
			continue
		}
		r.data, r.short = out, true
		return r
	}
	return result{data: out}
}

func (d *Drive) write(cdb, in []byte) result {
	fixed := cdb[1]&1 != 0
	n := be24(cdb[2:])
	size, count := n, 1
	if fixed {
		size, count = d.block, n
	}
	switch {
	case fixed && d.block == 0:
		return illegalField()
	case n == 0:
		return result{}
	case len(in) < size*count:
		return sense(keyHardware, 0x4400)
	}
	d.cart.truncate(d.pos)
	for i := range count {
		if !d.cart.fits(int64(size)) {
			left := int64(count - i)
			if !fixed {
				left = int64(n)
			}
			return senseLeft(keyOverflow|flagEnd, 0x0002, left)
		}
		d.cart.append(bytes.Clone(in[i*size : (i+1)*size]))
		d.pos++
	}
	return d.flushed(d.warning(), true)
}

// warning is what a write ends with that has gone behind the mark.
func (d *Drive) warning() result {
	if d.cart.warned() {
		return senseLeft(keyNone|flagEnd, 0x0002, 0)
	}
	return result{}
}

func (d *Drive) writeMarks(cdb []byte) result {
	if cdb[1]&2 != 0 { // setmarks
		return illegalField()
	}
	n := be24(cdb[2:])
	if n == 0 {
		return d.flushed(result{}, false)
	}
	d.cart.truncate(d.pos)
	for i := range n {
		if !d.cart.fits(markCost) {
			return d.flushed(senseLeft(keyOverflow|flagEnd, 0x0002, int64(n-i)), false)
		}
		d.cart.append(nil)
		d.pos++
	}
	return d.flushed(d.warning(), false)
}
