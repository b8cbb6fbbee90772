// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

const (
	diskIDLen  = 78
	diskIDText = 34 // where the id begins
)

// DiskID is what a LUN said of itself when a volume or a raw device mapping was made
// on it.
type DiskID struct {
	Type     uint8  `json:"type"`
	LUN      uint16 `json:"lun"`
	Vendor   string `json:"vendor"`
	Model    string `json:"model"`
	Revision string `json:"revision"`
	// ID is the device's own id as ESX keeps it: a path of the host for type 0, a
	// serial number and the beginning of the model for type 1.
	ID []byte `json:"-"`
}

// Hex returns the id in hexadecimal, as in the names of ESX that begin with vml.
func (d *DiskID) Hex() string { return hex.EncodeToString(d.ID) }

// String returns vendor, model and id.
func (d *DiskID) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %q", d.Vendor, d.Model, strings.TrimRight(string(d.ID), " \x00")))
}

func parseDiskID(b fields) (DiskID, error) {
	n := int(b.u8(1))
	if n > diskIDLen-diskIDText {
		return DiskID{}, fmt.Errorf("id of %d bytes where there is room for %d: %w", n, diskIDLen-diskIDText, disk.ErrCorrupt)
	}
	trimmed := func(off, n int) string { return strings.TrimRight(b.text(off, n), " ") }
	return DiskID{
		Type: b.u8(0), LUN: b.u16(2), Vendor: trimmed(6, 8), Model: trimmed(14, 16), Revision: trimmed(30, 4),
		ID: append([]byte(nil), b[diskIDText:diskIDText+n]...),
	}, nil
}
