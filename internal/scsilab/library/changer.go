// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package library

import (
	"encoding/binary"
	"fmt"
)

// Addresses of a changer's elements.
const (
	pickerAddress = 0
	driveAddress  = 1
	slotAddress   = 1024
)

// Kinds of elements.
const (
	kindPicker = 1
	kindSlot   = 2
	kindDrive  = 4
)

// Changer moves cartridges between slots and drives.
type Changer struct {
	Drives []*Drive
	Slots  []*Cartridge // nil where there is none

	events []uint16
}

type element struct {
	kind    byte
	address int
	cart    *Cartridge
}

func (c *Changer) elements() []element {
	all := []element{{kindPicker, pickerAddress, nil}}
	for i, s := range c.Slots {
		all = append(all, element{kindSlot, slotAddress + i, s})
	}
	for i, d := range c.Drives {
		all = append(all, element{kindDrive, driveAddress + i, d.cart})
	}
	return all
}

func (c *Changer) execute(cdb, _ []byte) result {
	switch cdb[0] {
	case 0x12:
		return inquiry(cdb, 8, "LAB LIBRARY", "LABLIB0")
	case 0x03:
		return clip(sense(keyNone, 0).sense, int(cdb[4]))
	}
	if len(c.events) > 0 {
		code := c.events[0]
		c.events = c.events[1:]
		return sense(keyUnit, code)
	}
	switch cdb[0] {
	case 0x00, 0x07, 0x1e: // ready, inventory, lock
		return result{}
	case 0x1a:
		return c.modeSense(cdb)
	case 0xa5:
		return c.move(be16(cdb[4:]), be16(cdb[6:]))
	case 0xb8:
		return c.status(cdb)
	}
	return illegalCommand()
}

// modeSense tells where the elements are.
func (c *Changer) modeSense(cdb []byte) result {
	if page := cdb[2] & 0x3f; page != 0x1d && page != 0x3f {
		return illegalField()
	}
	p := []byte{
		0x1d, 18, 0, pickerAddress, 0, 1, slotAddress >> 8, slotAddress & 0xff, 0, byte(len(c.Slots)), //nolint:gosec // a few
		0, 0, 0, 0, 0, driveAddress, 0, byte(len(c.Drives)), 0, 0, //nolint:gosec // a few
	}
	return clip(append([]byte{byte(3 + len(p)), 0, 0, 0}, p...), int(cdb[4])) //nolint:gosec // 20
}

// place is where a cartridge can be; drive is nil for a slot.
func (c *Changer) place(address int) (cart **Cartridge, drive *Drive) {
	if i := address - driveAddress; i >= 0 && i < len(c.Drives) {
		return &c.Drives[i].cart, c.Drives[i]
	}
	if i := address - slotAddress; i >= 0 && i < len(c.Slots) {
		return &c.Slots[i], nil
	}
	return nil, nil
}

func (c *Changer) move(from, to int) result {
	source, out := c.place(from)
	target, in := c.place(to)
	switch {
	case source == nil || target == nil:
		return sense(keyIllegal, 0x2101)
	case *source == nil:
		return sense(keyIllegal, 0x3b0e)
	case *target != nil:
		return sense(keyIllegal, 0x3b0d)
	case out != nil && out.locked && out.ready:
		return sense(keyIllegal, 0x5302)
	}
	cart := *source
	*source = nil
	if out != nil {
		out.ready, out.pos = false, 0
	} else {
		cart.home = from
	}
	if in != nil {
		in.Load(cart)
	} else {
		*target = cart
	}
	return result{}
}

// status answers READ ELEMENT STATUS.
func (c *Changer) status(cdb []byte) result {
	kind, tags := cdb[1]&0xf, cdb[1]&0x10 != 0
	start, most := be16(cdb[2:]), be16(cdb[4:])
	first, total := -1, 0
	var body []byte
	for _, k := range []byte{kindPicker, kindSlot, kindDrive} {
		var page []byte
		for _, e := range c.elements() {
			if e.kind != k || kind != 0 && kind != k || e.address < start || total >= most {
				continue
			}
			if total++; first < 0 || e.address < first {
				first = e.address
			}
			page = append(page, e.descriptor(tags)...)
		}
		if page != nil {
			body = append(append(body, pageHeader(k, tags, len(page))...), page...)
		}
	}
	h := make([]byte, 8)
	binary.BigEndian.PutUint16(h, uint16(max(first, 0))) //nolint:gosec // an address
	binary.BigEndian.PutUint16(h[2:], uint16(total))     //nolint:gosec // a few
	put24(h[5:], len(body))
	return clip(append(h, body...), be24(cdb[7:]))
}

func put24(b []byte, n int) { b[0], b[1], b[2] = byte(n>>16), byte(n>>8), byte(n) } //nolint:gosec // 24 bits

const (
	plainDescriptor = 16
	tagBytes        = 36
)

func pageHeader(kind byte, tags bool, bytes int) []byte {
	h := []byte{kind, 0, 0, plainDescriptor, 0, 0, 0, 0}
	if tags {
		h[1], h[3] = 0x80, plainDescriptor+tagBytes
	}
	put24(h[5:], bytes)
	return h
}

func (e *element) descriptor(tags bool) []byte {
	b := make([]byte, plainDescriptor, plainDescriptor+tagBytes)
	binary.BigEndian.PutUint16(b, uint16(e.address)) //nolint:gosec // an address
	if e.kind != kindPicker {
		b[2] = 0x08 // accessible
	}
	if e.cart != nil {
		b[2] |= 1
		b[9] = 0x80
		binary.BigEndian.PutUint16(b[10:], uint16(e.cart.home)) //nolint:gosec // an address
	}
	if tags {
		b = b[:plainDescriptor+tagBytes]
		if e.cart != nil {
			copy(b[12:44], fmt.Sprintf("%-32s", e.cart.Name))
		}
	}
	return b
}

// Fill puts cartridges from the first slots into the drives.
func (c *Changer) Fill() {
	for i, d := range c.Drives {
		if i < len(c.Slots) && c.Slots[i] != nil {
			c.move(slotAddress+i, driveAddress+i)
		}
		d.events = []uint16{0x2900} // power on
	}
	c.events = []uint16{0x2900}
}
