// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"fmt"
	"iter"
	"time"
)

// lockTypeFD is the type of the lock at the beginning of a file descriptor.
const lockTypeFD = 0x10C00001

// lockLen is as much of a lock as is read.
const (
	lockLen        = 512
	maxLockHolders = 8
)

// LockMode says who else may use what is locked.
type LockMode uint32

// The modes of locks.
const (
	Unlocked    LockMode = 0
	Exclusive   LockMode = 1
	ReadOnly    LockMode = 2
	MultiWriter LockMode = 3
)

// String returns the mode's name.
func (m LockMode) String() string {
	switch m {
	case Unlocked:
		return "free"
	case Exclusive:
		return "exclusive"
	case ReadOnly:
		return "read-only"
	case MultiWriter:
		return "multi-writer"
	}
	return fmt.Sprintf("mode %d", uint32(m))
}

// MarshalText is String.
func (m LockMode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// Lock is that of a file. Who has held it last shows even when it is free: only the
// mode and the holders tell that it is held, and only the heartbeat that it is by
// somebody who lives, see [Held].
type Lock struct {
	Mode       LockMode     `json:"mode"`
	Owner      UUID         `json:"owner"`
	Heartbeat  uint64       `json:"heartbeat"` // offset of the owner's slot in the volume
	Generation uint64       `json:"generation"`
	Token      uint64       `json:"token"` // grows when somebody takes the lock
	Holders    []LockHolder `json:"holders,omitempty"`

	kind uint32
	addr uint64 // offset of the lock in the volume
}

// LockHolder is one of those who share a lock.
type LockHolder struct {
	Heartbeat  uint64 `json:"heartbeat"`
	Generation uint64 `json:"generation"`
	Host       UUID   `json:"host"`
}

func parseLock(b fields) Lock {
	l := Lock{
		kind: b.u32(0), addr: b.u64(0x04), Heartbeat: b.u64(0x0C), Generation: b.u64(0x14), Token: b.u64(0x1C),
		Mode: LockMode(b.u32(0x24)), Owner: b.uuid(0x28),
	}
	for i := range int(min(b.u32(0x40), maxLockHolders)) {
		h := b[0x44+i*32:][:32]
		l.Holders = append(l.Holders, LockHolder{Heartbeat: h.u64(0), Generation: h.u64(8), Host: h.uuid(16)})
	}
	return l
}

// Slot is the heartbeat of a host that uses the volume, or did.
type Slot struct {
	Index      int    `json:"slot"`
	Address    uint64 `json:"address"` // offset in the volume
	InUse      bool   `json:"in_use"`
	Generation uint64 `json:"generation"`
	StampUS    uint64 `json:"stamp_us"` // the host's uptime at the last beat
	Owner      UUID   `json:"owner"`
	Journal    uint32 `json:"journal"` // address of the host's journal, 0 if it has none
	IP         string `json:"ip,omitempty"`

	state uint32
}

// The states of a slot. There is another one, of slots whose journal is replayed.
const (
	slotFree  = 0xABCDEF01
	slotInUse = 0xABCDEF02
)

// BeatTime is how long to wait between two looks at the heartbeats: a host that
// lives beats every few seconds, one whose slot has not changed for 16 is taken for
// dead by the others.
const BeatTime = 20 * time.Second

// Heartbeats reads the slots that are in use, or were: those that have an owner, a
// stamp, or a generation.
func (f *FS) Heartbeats() ([]Slot, error) {
	var all []Slot
	for s, err := range f.allSlots() {
		if err != nil {
			return nil, err
		}
		if s.InUse || !s.Owner.IsZero() || s.StampUS != 0 {
			all = append(all, s)
		}
	}
	return all, nil
}

// allSlots yields all slots of heartbeats, or what is wrong with them.
func (f *FS) allSlots() iter.Seq2[Slot, error] {
	size, n := int64(512), 2048
	if f.header.wide() {
		size, n = f.header.MetadataBytes, 1024
	}
	return func(yield func(Slot, error) bool) {
		const atOnce = 64
		f.vol.forget(heartbeatsAt, size*int64(n))
		b := make(fields, size*atOnce)
		for i := range n {
			at := heartbeatsAt + int64(i)*size
			if i%atOnce == 0 {
				if err := f.vol.readFull(b, at, "heartbeats"); err != nil {
					yield(Slot{}, err)
					return
				}
			}
			if !yield(f.slot(b[int64(i%atOnce)*size:][:512], i, at)) {
				return
			}
		}
	}
}

func (f *FS) slot(b fields, index int, at int64) (Slot, error) {
	s := Slot{
		Index: index, Address: uint64(at), Generation: b.u64(0x0C), StampUS: b.u64(0x14), Owner: b.uuid(0x1C), Journal: b.u32(0x2C), IP: b.text(0x36, 46),
	}
	s.state = b.u32(0)
	switch s.state {
	case slotFree, 0: // 0: what was never formatted
	default:
		s.InUse = true // also what is not known: somebody has something to do with it
	}
	if addr := b.u64(0x04); addr != uint64(at) && (addr != 0 || s.InUse) {
		return Slot{}, f.vol.corrupt(fmt.Sprintf("heartbeat slot %d", index), at+4, "says that it lies at %d of the volume, and lies at %d", addr, at)
	}
	return s, nil
}

// Live returns the slots of hosts that have beaten between two looks, which are
// [BeatTime] or more apart. Others that are in use are of hosts that are gone.
func Live(before, after []Slot) []Slot {
	was := map[int]Slot{}
	for _, s := range before {
		was[s.Index] = s
	}
	var live []Slot
	for _, s := range after {
		old, ok := was[s.Index]
		if s.InUse && (!ok || !old.InUse || old.StampUS != s.StampUS || old.Generation != s.Generation || old.Owner != s.Owner) {
			live = append(live, s)
		}
	}
	return live
}

// Held returns the slot of the host that holds a lock, if that is in use; false if
// nobody does, or the lock was left by a host that is gone since.
func Held(l *Lock, slots []Slot) (Slot, bool) {
	if l.Mode == Unlocked {
		return Slot{}, false
	}
	matches := func(addr, generation uint64) (Slot, bool) {
		for _, s := range slots {
			if s.InUse && s.Address == addr && s.Generation == generation {
				return s, true
			}
		}
		return Slot{}, false
	}
	if s, ok := matches(l.Heartbeat, l.Generation); ok {
		return s, true
	}
	for _, h := range l.Holders {
		if s, ok := matches(h.Heartbeat, h.Generation); ok {
			return s, true
		}
	}
	return Slot{}, false
}
