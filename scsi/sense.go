// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi

import (
	"encoding/binary"
	"fmt"
)

// SenseKey is what kind of trouble a device tells of.
type SenseKey byte

// The sense keys.
const (
	NoSense SenseKey = iota
	RecoveredError
	NotReady
	MediumError
	HardwareError
	IllegalRequest
	UnitAttention
	DataProtect
	BlankCheck
	VendorSpecific
	CopyAborted
	AbortedCommand
	reservedKey
	VolumeOverflow
	Miscompare
	Completed
)

var keyNames = [16]string{
	"no sense", "recovered error", "not ready", "medium error", "hardware error", "illegal request", "unit attention", "data protect",
	"blank check", "vendor specific", "copy aborted", "aborted command", "sense key 12", "volume overflow", "miscompare", "completed",
}

// String returns the key in words.
func (k SenseKey) String() string { return keyNames[k&15] }

// Sense is what a device says of a command that it did not carry out.
type Sense struct {
	Key         SenseKey
	ASC, ASCQ   byte // additional sense code and its qualifier
	Deferred    bool // of a command before this one
	Filemark    bool
	EndOfMedium bool
	WrongLength bool   // a block of another length was met
	Information uint64 // mostly the LBA, or what is left of a length
	HasInfo     bool
}

// ParseSense reads sense data in fixed or in descriptor format; false if it is neither.
// A piece is enough: what is missing counts as zero.
func ParseSense(b []byte) (Sense, bool) {
	if len(b) < 3 {
		return Sense{}, false
	}
	var s Sense
	switch b[0] & 0x7f {
	case 0x70, 0x71:
		s = fixedSense(b)
	case 0x72, 0x73:
		s = descriptorSense(b)
	default:
		return Sense{}, false
	}
	s.Deferred = b[0]&1 != 0
	return s, true
}

// byteAt returns a byte, zero behind the end.
func byteAt(b []byte, i int) byte {
	if i < len(b) {
		return b[i]
	}
	return 0
}

func fixedSense(b []byte) Sense {
	s := Sense{Key: SenseKey(b[2] & 15), ASC: byteAt(b, 12), ASCQ: byteAt(b, 13)}
	s.stream(b[2])
	if b[0]&0x80 != 0 && len(b) >= 7 {
		s.HasInfo, s.Information = true, uint64(binary.BigEndian.Uint32(b[3:]))
	}
	return s
}

// stream takes the bits that tapes have.
func (s *Sense) stream(bits byte) {
	s.Filemark, s.EndOfMedium, s.WrongLength = bits&0x80 != 0, bits&0x40 != 0, bits&0x20 != 0
}

func descriptorSense(b []byte) Sense {
	s := Sense{Key: SenseKey(b[1] & 15), ASC: b[2], ASCQ: byteAt(b, 3)}
	if len(b) < 8 {
		return s
	}
	rest := b[8:min(len(b), 8+int(b[7]))]
	for len(rest) >= 2 {
		n := 2 + int(rest[1])
		if n > len(rest) {
			break
		}
		switch {
		case rest[0] == 0 && n >= 12: // information
			s.HasInfo, s.Information = true, binary.BigEndian.Uint64(rest[4:])
		case rest[0] == 4 && n >= 4: // stream commands
			s.stream(rest[3])
		}
		rest = rest[n:]
	}
	return s
}

// String returns key and code in words and in figures, which is what vendors' manuals
// are searched for.
func (s Sense) String() string {
	text := fmt.Sprintf("%v (%x/%02x/%02x)", s.Key, byte(s.Key), s.ASC, s.ASCQ)
	if w := senseWords(s.ASC, s.ASCQ); w != "" {
		text = fmt.Sprintf("%v: %s (%x/%02x/%02x)", s.Key, w, byte(s.Key), s.ASC, s.ASCQ)
	}
	if s.Deferred {
		text += ", of an earlier command"
	}
	return text
}

// kind is what the sense data mean for who gave the command.
func (s Sense) kind() error {
	switch s.Key {
	case NotReady:
		return ErrNotReady
	case MediumError:
		return ErrMedium
	case HardwareError:
		return ErrHardware
	case IllegalRequest:
		return ErrUnsupported
	case UnitAttention:
		return ErrAttention
	case DataProtect:
		return ErrProtected
	}
	return nil
}
