// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ID is the id of a LUN in the form that Linux and ESX write it: naa.HEX, eui.HEX, or
// t10.VENDOR and more. It is the same on every path and for every host.
type ID string

// ParseID reads an id as it is written anywhere: naa., eui. and t10. as ESX and sysfs
// have them; wwn-0x, scsi-3 and 0x as udev does below /dev/disk/by-id, with or without
// the directory. A serial number is none.
func ParseID(s string) (ID, error) {
	text := strings.TrimPrefix(s, "/dev/disk/by-id/")
	if model, ok := strings.CutPrefix(text, "t10."); ok && strings.TrimSpace(model) != "" {
		return ID("t10." + trim([]byte(model))), nil
	}
	low := strings.ToLower(text)
	for _, p := range []string{"naa.", "eui.", "wwn-0x", "scsi-3", "scsi-2", "0x"} {
		digits, ok := strings.CutPrefix(low, p)
		if !ok {
			continue
		}
		b, err := hex.DecodeString(digits)
		if err != nil {
			return "", fmt.Errorf("%q: not hexadecimal behind %s: %w", s, p, ErrNoDevice)
		}
		if p == "eui." || p == "scsi-2" {
			return euiID(b)
		}
		return naaID(b)
	}
	return "", fmt.Errorf("%q: no id of a LUN, such as naa.600…, eui.…, t10.… or wwn-0x…: %w", s, ErrNoDevice)
}

var errNotAnID = errors.New("not as long as an id of its kind")

// naaID returns an NAA id: 8 bytes, or 16 if it begins with 6.
func naaID(b []byte) (ID, error) {
	if len(b) == 0 || len(b) != map[byte]int{2: 8, 3: 8, 5: 8, 6: 16}[b[0]>>4] {
		return "", fmt.Errorf("naa.%x: %w", b, errNotAnID)
	}
	return ID("naa." + hex.EncodeToString(b)), nil
}

// euiID returns an id by EUI-64, which has 8, 12 or 16 bytes.
func euiID(b []byte) (ID, error) {
	if len(b) != 8 && len(b) != 12 && len(b) != 16 {
		return "", fmt.Errorf("eui.%x: %w", b, errNotAnID)
	}
	return ID("eui." + hex.EncodeToString(b)), nil
}

// parseDesignators returns the ids of the LUN in page 0x83, the best one first: NAA 6,
// then 5, EUI-64, 2, 3, and T10 vendor. What is damaged is left out.
func parseDesignators(b []byte) []ID {
	var ids []ID
	for len(b) >= 4 {
		n := 4 + int(b[3])
		if n > len(b) {
			break
		}
		if id, ok := designator(b[0]&15, b[1], b[4:n]); ok && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
		b = b[n:]
	}
	slices.SortStableFunc(ids, func(a, b ID) int { return cmp.Compare(a.rank(), b.rank()) })
	return ids
}

// designator returns the id in one designator, if it is one of the LUN itself.
func designator(codeSet, kind byte, value []byte) (ID, bool) {
	if kind>>4&3 != 0 { // of a port or the target
		return "", false
	}
	var id ID
	var err error
	switch kind & 15 {
	case 1:
		t := trim(value)
		id = ID("t10." + t)
		if t == "" || codeSet == 1 && bytes.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
			err = errNotAnID
		}
	case 2:
		id, err = euiID(value)
	case 3:
		id, err = naaID(value)
	default:
		return "", false
	}
	return id, err == nil
}

func (id ID) rank() int {
	for i, p := range []string{"naa.6", "naa.5", "eui.", "naa.2", "naa.3"} {
		if strings.HasPrefix(string(id), p) {
			return i
		}
	}
	return 9
}

// bytes returns the id as the device has it.
func (id ID) bytes() []byte {
	s := string(id)
	if t, ok := strings.CutPrefix(s, "t10."); ok {
		return []byte(t)
	}
	b, err := hex.DecodeString(s[strings.IndexByte(s, '.')+1:])
	if err != nil {
		return nil
	}
	return b
}

// esxModel is how much of the model ESX puts behind an id in its names that begin with
// vml, and in raw device mappings.
const esxModel = 6

// IsESX reports if an id as ESX keeps it in volumes and in raw device mappings is that
// of a LUN: the bytes of an id, or the serial number filled up with blanks, and behind
// that the beginning of the model. ([H] for ids; seen for a serial number of QEMU.)
func (i *Identity) IsESX(model string, esx []byte) bool {
	tail := fmt.Sprintf("%-*.*s", esxModel, esxModel, model)
	body, ok := bytes.CutSuffix(esx, []byte(tail))
	if !ok || len(bytes.TrimSpace(body)) == 0 {
		return false
	}
	serial := bytes.TrimRight(body, " \x00")
	if i.Serial != "" && (string(serial) == i.Serial || len(serial) == 20 && strings.HasPrefix(i.Serial, string(serial))) {
		return true
	}
	return slices.ContainsFunc(i.IDs, func(id ID) bool { return bytes.Equal(id.bytes(), body) })
}

// ESX returns the id as ESX keeps it in a raw device mapping, and the type that goes
// with it: 2 for an id, 1 for a serial number of 20 bytes; 0 and nothing if the LUN
// says neither.
func (i *Identity) ESX(model string) (kind byte, esx []byte) {
	tail := fmt.Sprintf("%-*.*s", esxModel, esxModel, model)
	best := i.Best()
	switch {
	case strings.HasPrefix(string(best), "naa.") || strings.HasPrefix(string(best), "eui."):
		return 2, append(best.bytes(), tail...)
	case i.Serial != "":
		return 1, fmt.Appendf(nil, "%-20.20s%s", i.Serial, tail)
	}
	return 0, nil
}
