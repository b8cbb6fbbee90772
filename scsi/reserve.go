// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// Reserve reserves the LUN for this host by RESERVE(6), as ESX did for VMFS: nobody else
// can use it until Release, a reset, or the loss of power. If another host has it, the
// error is ErrReserved. The reservation stays when the process ends.
func (d *Device) Reserve(ctx context.Context) error {
	_, err := d.run(ctx, &Command{Name: "RESERVE(6)", CDB: []byte{0x16, 0, 0, 0, 0, 0}})
	return err
}

// Release ends a reservation that this host has by RESERVE(6). If another host has one
// the device may say that all is well, and changes nothing: see [Device.Reservation].
func (d *Device) Release(ctx context.Context) error {
	_, err := d.run(ctx, &Command{Name: "RELEASE(6)", CDB: []byte{0x17, 0, 0, 0, 0, 0}})
	return err
}

// Key is what a host has registered with for persistent reservations.
type Key uint64

// String returns the key in hexadecimal.
func (k Key) String() string { return fmt.Sprintf("0x%x", uint64(k)) }

// MarshalText returns the key in hexadecimal; JSON's numbers are too short for it.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// PersistentType says what a persistent reservation keeps others from.
type PersistentType byte

// The types of persistent reservations.
const (
	WriteExclusive                 PersistentType = 1
	ExclusiveAccess                PersistentType = 3
	WriteExclusiveRegistrantsOnly  PersistentType = 5
	ExclusiveAccessRegistrantsOnly PersistentType = 6
	WriteExclusiveAllRegistrants   PersistentType = 7
	ExclusiveAccessAllRegistrants  PersistentType = 8
)

var persistentNames = map[PersistentType]string{
	WriteExclusive: "write-exclusive", ExclusiveAccess: "exclusive-access",
	WriteExclusiveRegistrantsOnly: "write-exclusive-registrants", ExclusiveAccessRegistrantsOnly: "exclusive-access-registrants",
	WriteExclusiveAllRegistrants: "write-exclusive-all-registrants", ExclusiveAccessAllRegistrants: "exclusive-access-all-registrants",
}

// String returns the type in words.
func (t PersistentType) String() string {
	if n := persistentNames[t]; n != "" {
		return n
	}
	return fmt.Sprintf("type %d", byte(t))
}

// ParsePersistentType reads the words of String.
func ParsePersistentType(s string) (PersistentType, error) {
	for t, n := range persistentNames {
		if n == s {
			return t, nil
		}
	}
	return 0, fmt.Errorf("%q: no type of a persistent reservation; such as %v or %v", s, WriteExclusive, ExclusiveAccessRegistrantsOnly)
}

// MarshalText returns the type in words.
func (t PersistentType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Service actions of PERSISTENT RESERVE OUT.
const (
	prRegister     = 0
	prReserve      = 1
	prRelease      = 2
	prClear        = 3
	prRegisterOver = 6 // and ignore the key that was there
)

// persistentOut gives a command for persistent reservations.
func (d *Device) persistentOut(ctx context.Context, name string, action byte, t PersistentType, key, newKey Key) error {
	out := make([]byte, 24)
	binary.BigEndian.PutUint64(out, uint64(key))
	binary.BigEndian.PutUint64(out[8:], uint64(newKey))
	cdb := []byte{0x5f, action, byte(t), 0, 0, 0, 0, 0, byte(len(out)), 0}
	_, err := d.run(ctx, &Command{Name: "PERSISTENT RESERVE OUT (" + name + ")", CDB: cdb, Out: out})
	return err
}

// Register registers this host under a key, in place of what it was registered with
// before; 0 takes its registration, and a reservation that it has, away.
func (d *Device) Register(ctx context.Context, key Key) error {
	err := d.persistentOut(ctx, "register", prRegisterOver, 0, 0, key)
	if errors.Is(err, ErrUnsupported) {
		return d.persistentOut(ctx, "register", prRegister, 0, 0, key)
	}
	return err
}

// ReservePersistent reserves the LUN for the host that has registered with the key.
func (d *Device) ReservePersistent(ctx context.Context, key Key, t PersistentType) error {
	return d.persistentOut(ctx, "reserve", prReserve, t, key, 0)
}

// ReleasePersistent ends a reservation of that type that this host has. The
// registration stays.
func (d *Device) ReleasePersistent(ctx context.Context, key Key, t PersistentType) error {
	return d.persistentOut(ctx, "release", prRelease, t, key, 0)
}

// ClearPersistent ends the reservation and all registrations, also those of others.
func (d *Device) ClearPersistent(ctx context.Context, key Key) error {
	return d.persistentOut(ctx, "clear", prClear, 0, key, 0)
}

// Reservation is who may use a LUN.
type Reservation struct {
	// Conflict says that another host keeps this one out, by RESERVE(6) or by a
	// persistent reservation. By which RESERVE(6), a device does not say.
	Conflict bool `json:"conflict"`

	// Persistent says that there is a persistent reservation, and that the fields
	// below tell of it.
	Persistent bool           `json:"persistent"`
	Key        Key            `json:"key,omitempty"`
	Type       PersistentType `json:"type,omitempty"`

	Generation  uint32       `json:"generation,omitempty"` // changes with every registration
	Registrants []Registrant `json:"registrants,omitempty"`

	Unknown bool `json:"unknown,omitempty"` // the device does not tell of persistent reservations
}

// Registrant is a host that has registered for persistent reservations.
type Registrant struct {
	Key    Key    `json:"key"`
	Holder bool   `json:"holder"`         // it has the reservation
	Host   string `json:"host,omitempty"` // name of its port, if the device tells
}

// String returns the reservation in words.
func (r *Reservation) String() string {
	switch {
	case r.Persistent:
		s := fmt.Sprintf("persistent, %v, key %v", r.Type, r.Key)
		for _, x := range r.Registrants {
			if x.Holder && x.Host != "" {
				s += ", by " + x.Host
			}
		}
		if r.Conflict {
			s += ", not for this host"
		}
		return s
	case r.Conflict:
		return "by another host"
	case r.Unknown:
		return "none for others; persistent ones are not known to the device"
	case len(r.Registrants) > 0:
		return fmt.Sprintf("none; %d registered", len(r.Registrants))
	}
	return "none"
}

// Reservation asks who may use the LUN. It changes nothing. That this host itself has
// a reservation by RESERVE(6) cannot be seen.
func (d *Device) Reservation(ctx context.Context) (Reservation, error) {
	var r Reservation
	switch err := d.TestReady(ctx); {
	case errors.Is(err, ErrReserved):
		r.Conflict = true
	case err != nil && !errors.Is(err, ErrNotReady):
		return r, err
	}
	err := d.persistent(ctx, &r)
	switch {
	case errors.Is(err, ErrReserved): // by RESERVE(6), maybe this host's own
		return r, nil
	case errors.Is(err, ErrUnsupported):
		r.Unknown = true
		return r, nil
	}
	return r, err
}

// Room for the answers to PERSISTENT RESERVE IN: a thousand hosts are more than a LUN has.
const persistentRoom = 16 << 10

func (d *Device) persistentIn(ctx context.Context, name string, action byte) ([]byte, uint32, error) {
	name = "PERSISTENT RESERVE IN (" + name + ")"
	cdb := []byte{0x5e, action, 0, 0, 0, 0, 0, persistentRoom >> 8, persistentRoom & 0xff, 0}
	b, err := d.ask(ctx, name, cdb, persistentRoom, 8)
	if err != nil {
		return nil, 0, err
	}
	n := binary.BigEndian.Uint32(b[4:])
	return b[8:min(int64(len(b)), 8+int64(n))], binary.BigEndian.Uint32(b), nil
}

// persistent asks for persistent reservations and for who has registered.
func (d *Device) persistent(ctx context.Context, r *Reservation) error {
	b, generation, err := d.persistentIn(ctx, "reservation", 1)
	if err != nil {
		return err
	}
	r.Generation = generation
	if len(b) >= 16 {
		r.Persistent = true
		r.Key, r.Type = Key(binary.BigEndian.Uint64(b)), PersistentType(b[13]&15)
	}
	if b, _, err = d.persistentIn(ctx, "full status", 3); err == nil {
		r.Registrants = fullStatus(b)
		return nil
	}
	if !errors.Is(err, ErrUnsupported) {
		return err
	}
	if b, _, err = d.persistentIn(ctx, "keys", 0); err != nil {
		return err
	}
	for ; len(b) >= 8; b = b[8:] {
		k := Key(binary.BigEndian.Uint64(b))
		r.Registrants = append(r.Registrants, Registrant{Key: k, Holder: r.Persistent && k == r.Key})
	}
	return nil
}

// fullStatus reads the descriptors of those that have registered.
func fullStatus(b []byte) []Registrant {
	const head = 24
	var all []Registrant
	for len(b) >= head {
		n := int64(binary.BigEndian.Uint32(b[20:]))
		if n > int64(len(b)-head) {
			n = int64(len(b) - head)
		}
		all = append(all, Registrant{
			Key: Key(binary.BigEndian.Uint64(b)), Holder: b[12]&1 != 0, Host: transportName(b[head : head+n]),
		})
		b = b[head+n:]
	}
	return all
}

// transportName is the name of a host's port, by the protocol that it speaks; "" if it
// is none that has a name.
func transportName(b []byte) string {
	if len(b) < 24 {
		return ""
	}
	switch b[0] & 15 {
	case 0:
		return fmt.Sprintf("fc %x", b[8:16])
	case 3:
		return fmt.Sprintf("ieee1394 %x", b[8:16])
	case 4:
		return fmt.Sprintf("rdma %x", b[8:24])
	case 5:
		n := min(4+int(binary.BigEndian.Uint16(b[2:])), len(b))
		return "iscsi " + trim(b[4:n])
	case 6:
		return fmt.Sprintf("sas %x", b[4:12])
	}
	return ""
}
