// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
)

// Type is the kind of a device.
type Type byte

// The types of devices that matter here.
const (
	TypeDisk    Type = 0
	TypeTape    Type = 1
	TypeCDROM   Type = 5
	TypeChanger Type = 8
	TypeArray   Type = 12
	TypeNone    Type = 31 // nothing there
)

// String returns the type in a word.
func (t Type) String() string {
	switch t {
	case TypeDisk:
		return "disk"
	case TypeTape:
		return "tape"
	case TypeCDROM:
		return "cdrom"
	case TypeChanger:
		return "changer"
	case TypeArray:
		return "array"
	case TypeNone:
		return "none"
	}
	return fmt.Sprintf("type %d", byte(t))
}

// MarshalText returns the type in a word.
func (t Type) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Inquiry is what a device says of its make.
type Inquiry struct {
	Type     Type   `json:"type"`
	Vendor   string `json:"vendor"`
	Model    string `json:"model"`
	Revision string `json:"revision"`
}

// Pages of vital product data.
const (
	pageSupported    = 0x00
	pageSerial       = 0x80
	pageIdentity     = 0x83
	pageLimits       = 0xb0
	pageProvisioning = 0xb2
)

// ParseInquiry reads the standard answer to INQUIRY.
func ParseInquiry(b []byte) (Inquiry, error) {
	if len(b) < 36 {
		return Inquiry{}, fmt.Errorf("INQUIRY: %d bytes, where there are 36 at least: %w", len(b), ErrInvalid)
	}
	q := Inquiry{Type: Type(b[0] & 31), Vendor: trim(b[8:16]), Model: trim(b[16:32]), Revision: trim(b[32:36])}
	if b[0]>>5 == 3 { // no device can be there
		q.Type = TypeNone
	}
	return q, nil
}

// trim makes text of what a device says: what is no printable ASCII becomes a question mark, so
// that nothing in it can act on a terminal, and blanks at both ends go.
func trim(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		switch {
		case c == 0:
			s.WriteByte(' ')
		case c < ' ' || c > '~':
			s.WriteByte('?')
		default:
			s.WriteByte(c)
		}
	}
	return strings.TrimSpace(s.String())
}

// Inquiry asks for the make of the device. Devices answer that also if another host
// has reserved them.
func (d *Device) Inquiry(ctx context.Context) (Inquiry, error) {
	b, err := d.ask(ctx, "INQUIRY", []byte{0x12, 0, 0, 0, 96, 0}, 96, 36)
	if err != nil {
		return Inquiry{}, err
	}
	return ParseInquiry(b)
}

// page asks for a page of vital product data, and returns what is behind its header.
func (d *Device) page(ctx context.Context, page byte) ([]byte, error) {
	const room = 4 << 10
	name := fmt.Sprintf("INQUIRY of page 0x%02x", page)
	b, err := d.ask(ctx, name, []byte{0x12, 1, page, room >> 8, room & 0xff, 0}, room, 4)
	if err != nil {
		return nil, err
	}
	return pageBody(b, page)
}

// pageBody returns a page without its header. A page that is longer than what there is
// of it is cut off.
func pageBody(b []byte, page byte) ([]byte, error) {
	if len(b) < 4 || b[1] != page {
		return nil, fmt.Errorf("vital product data: no page 0x%02x: %w", page, ErrInvalid)
	}
	return b[4:min(len(b), 4+int(binary.BigEndian.Uint16(b[2:])))], nil
}

// Identity is who a LUN says that it is.
type Identity struct {
	Serial string `json:"serial,omitempty"`
	IDs    []ID   `json:"ids,omitempty"` // the best one first
}

// Best returns the id that tells the LUN from all others; "" if it has none.
func (i *Identity) Best() ID {
	if len(i.IDs) == 0 {
		return ""
	}
	return i.IDs[0]
}

// Identity asks for serial number and ids. A device that has neither gives an empty
// identity and no error.
func (d *Device) Identity(ctx context.Context) (Identity, error) {
	var id Identity
	pages, err := d.page(ctx, pageSupported)
	if err != nil {
		return id, nilIfUnsupported(err)
	}
	for _, p := range pages {
		if p != pageSerial && p != pageIdentity {
			continue
		}
		b, err := d.page(ctx, p)
		switch {
		case err != nil:
			return id, err
		case p == pageSerial:
			id.Serial = trim(b)
		default:
			id.IDs = parseDesignators(b)
		}
	}
	return id, nil
}

// Limits are what a disk takes in one command, and how it does without blocks.
type Limits struct {
	MaxUnmapBlocks uint32 // in one range; 0: UNMAP is not supported
	MaxUnmapRanges uint32
	Unmap          bool // UNMAP is supported
}

// Limits asks what UNMAP may be given. Devices that do not tell have none of it.
func (d *Device) Limits(ctx context.Context) (Limits, error) {
	var l Limits
	pages, err := d.page(ctx, pageSupported)
	if err != nil {
		return l, nilIfUnsupported(err)
	}
	for _, p := range pages {
		if p != pageLimits && p != pageProvisioning {
			continue
		}
		b, err := d.page(ctx, p)
		switch {
		case err != nil:
			return l, err
		case p == pageLimits && len(b) >= 24:
			l.MaxUnmapBlocks, l.MaxUnmapRanges = binary.BigEndian.Uint32(b[16:]), binary.BigEndian.Uint32(b[20:])
		case p == pageProvisioning && len(b) >= 2:
			l.Unmap = b[1]&0x80 != 0
		}
	}
	return l, nil
}
