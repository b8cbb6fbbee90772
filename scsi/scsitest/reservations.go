// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsitest

import (
	"encoding/binary"
	"maps"
	"slices"

	"github.com/vmstream/vmstream/scsi"
)

// conflict reports if another host's reservation keeps this one from a command.
func (l *LUN) conflict(host string, c *scsi.Command) bool {
	op := c.CDB[0]
	if op == 0x12 { // INQUIRY is for all
		return false
	}
	if l.holder != "" {
		// Who has it by RESERVE(6) gets no answers about persistent ones either.
		return op == 0x5e || op == 0x5f || l.holder != host && op != 0x17
	}
	if l.owner == "" || l.owner == host || op == 0x5e || op == 0x5f || op == 0x00 || op == 0x17 {
		return op == 0x16 && l.owner != ""
	}
	switch l.kind {
	case scsi.WriteExclusive:
		return op == 0x8a || op == 0x42 || op == 0x16
	case scsi.WriteExclusiveRegistrantsOnly:
		return (op == 0x8a || op == 0x42 || op == 0x16) && l.keys[host] == 0
	case scsi.ExclusiveAccessRegistrantsOnly:
		return l.keys[host] == 0
	}
	return true
}

func (l *LUN) persistentIn(cdb []byte) ([]byte, scsi.Result) {
	if l.o.NoPersistent {
		return nil, unknown
	}
	b := make([]byte, 8)
	binary.BigEndian.PutUint32(b, l.gen)
	switch cdb[1] & 31 {
	case 0:
		for _, host := range slices.Sorted(maps.Keys(l.keys)) {
			b = binary.BigEndian.AppendUint64(b, uint64(l.keys[host]))
		}
	case 1:
		if l.owner != "" {
			d := make([]byte, 16)
			binary.BigEndian.PutUint64(d, uint64(l.keys[l.owner]))
			d[13] = byte(l.kind)
			b = append(b, d...)
		}
	case 3:
		for _, host := range slices.Sorted(maps.Keys(l.keys)) {
			d := make([]byte, 24)
			binary.BigEndian.PutUint64(d, uint64(l.keys[host]))
			if host == l.owner {
				d[12], d[13] = 1, byte(l.kind)
			}
			id := append([]byte{5, 0, 0, 0}, host...) // iSCSI
			id = append(id, make([]byte, max(24-len(id), 4-len(id)%4))...)
			binary.BigEndian.PutUint16(id[2:], uint16(len(id)-4)) //nolint:gosec // small
			binary.BigEndian.PutUint32(d[20:], uint32(len(id)))   //nolint:gosec // small
			b = append(append(b, d...), id...)
		}
	default:
		return nil, badField
	}
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)-8)) //nolint:gosec // small
	return b, good
}

func (l *LUN) persistentOut(host string, c *scsi.Command) scsi.Result {
	if l.o.NoPersistent {
		return unknown
	}
	if len(c.Out) != 24 {
		return badParameters
	}
	conflict := scsi.Result{Status: scsi.StatusReservationConflict}
	key, newKey := scsi.Key(binary.BigEndian.Uint64(c.Out)), scsi.Key(binary.BigEndian.Uint64(c.Out[8:]))
	action, kind := c.CDB[1]&31, scsi.PersistentType(c.CDB[2]&15)
	if action != 6 && l.keys[host] != key {
		return conflict
	}
	switch action {
	case 0, 6:
		l.gen++
		if newKey != 0 {
			l.keys[host] = newKey
			return good
		}
		delete(l.keys, host)
		if l.owner == host {
			l.owner = ""
		}
	case 1:
		if key == 0 || l.owner != "" && (l.owner != host || l.kind != kind) {
			return conflict
		}
		l.owner, l.kind = host, kind
	case 2:
		switch {
		case key == 0:
			return conflict
		case l.owner == host && l.kind != kind:
			return sense(scsi.IllegalRequest, 0x26, 0x04)
		case l.owner == host:
			l.owner = ""
		}
	case 3:
		if key == 0 {
			return conflict
		}
		l.gen++
		for other := range l.keys {
			if other != host {
				l.tell(other, 0x2a, 0x03)
			}
		}
		l.owner, l.keys = "", map[string]scsi.Key{}
	default:
		return badField
	}
	return good
}
