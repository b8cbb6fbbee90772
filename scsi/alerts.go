// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi

import (
	"context"
	"encoding/binary"
)

// TapeAlerts returns the numbers of the TapeAlert flags that a drive has set, 1 to 64, in
// ascending order. To ask clears them. Drives without them give ErrUnsupported.
func (d *Device) TapeAlerts(ctx context.Context) ([]int, error) {
	const (
		name = "LOG SENSE of TapeAlert"
		room = 1 << 10 // 64 flags of 5 bytes each
		page = 0x2e
	)
	cdb := []byte{0x4d, 0, 0x40 | page, 0, 0, 0, 0, room >> 8, room & 0xff, 0}
	b, err := d.ask(ctx, name, cdb, room, 4)
	if err != nil {
		return nil, err
	}
	if b[0]&0x3f != page {
		return nil, d.answerError(name, "page 0x%02x", b[0]&0x3f)
	}
	return parseAlerts(b[4:min(len(b), 4+int(binary.BigEndian.Uint16(b[2:])))]), nil
}

// parseAlerts reads the parameters of the page. What is damaged is left out.
func parseAlerts(b []byte) []int {
	set := [65]bool{}
	for len(b) >= 4 {
		n := 4 + int(b[3])
		if n > len(b) {
			break
		}
		if code := binary.BigEndian.Uint16(b); n > 4 && code >= 1 && code <= 64 && b[4]&1 != 0 {
			set[code] = true
		}
		b = b[n:]
	}
	var all []int
	for i, on := range set {
		if on {
			all = append(all, i)
		}
	}
	return all
}
