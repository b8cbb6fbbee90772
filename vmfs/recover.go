// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/vmstream/vmstream/disk"
)

// RecoverOptions say what Recover may do.
type RecoverOptions struct {
	Options

	// DropJournals clears slots of hosts that may have had changes in a journal, which
	// only a host can read: what was in it is lost.
	DropJournals bool

	DryRun bool // tell what would be done

	// Report is told of everything that has been changed. It may be nil.
	Report func(Released)
}

// Released is a slot or a lock that a host has left.
type Released struct {
	What   string `json:"what"` // "slot" or "lock"
	Name   string `json:"name"` // of a file, or a table and its cluster; "" for a slot
	Host   string `json:"host"`
	Device string `json:"device"`
	Offset int64  `json:"offset"` // in the device
}

// Recover frees the slots and locks that hosts have left which are gone, as hosts do
// themselves, and as vmkfstools -R did. It looks at the heartbeats twice, [BeatTime] apart,
// and fails with ErrInUse if a host has beaten meanwhile, or if one may have left changes in
// a journal. Nothing but slots and locks is written, each with one write of a sector, so that
// a run that is stopped leaves others to free; it can be run again. All devices have to be
// there. VMFS-6 is not written (disk.ErrUnsupported).
func Recover(ctx context.Context, devices []WriteDevice, o RecoverOptions) error {
	if o.AllowMissing {
		return fmt.Errorf("VMFS: a volume is not recovered without all of its devices: %w", disk.ErrUnsupported)
	}
	if o.Report == nil {
		o.Report = func(Released) {}
	}
	f, err := Open(readers(devices), o.Options)
	if err != nil {
		return err
	}
	if f.header.wide() {
		return fmt.Errorf("VMFS: locks of %v are not written: its checksums are not public: %w", f.header.Generation, disk.ErrUnsupported)
	}
	r := &recovery{fs: f, m: &medium{f.vol, devices}, o: &o}
	gone, err := r.gone(ctx)
	if err != nil {
		return err
	}
	// What is locked is looked for first: then nothing is changed of a volume that is damaged.
	locks, err := r.locks(ctx)
	if err != nil {
		return err
	}
	for _, s := range gone {
		if err := r.freeSlot(s); err != nil {
			return err
		}
	}
	if err := r.sync(); err != nil { // a lock of a slot that is in use is not to be free
		return err
	}
	for _, l := range locks {
		if err := r.freeLock(l); err != nil {
			return err
		}
	}
	return r.sync()
}

type recovery struct {
	fs *FS
	m  *medium
	o  *RecoverOptions
}

func (r *recovery) sync() error {
	if r.o.DryRun {
		return nil
	}
	return r.m.sync()
}

// gone returns the slots in use, if none of them is of a host that lives.
func (r *recovery) gone(ctx context.Context) ([]Slot, error) {
	first, err := r.fs.Heartbeats()
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(beatTime):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	now, err := r.fs.Heartbeats()
	if err != nil {
		return nil, err
	}
	var gone []Slot
	for _, s := range Live(first, now) {
		return nil, fmt.Errorf("%s uses volume %q: %w", s.host(), r.fs.header.Label, ErrInUse)
	}
	for _, s := range now {
		switch {
		case !s.InUse:
		case s.state != slotInUse && !r.o.DropJournals:
			return nil, fmt.Errorf("slot %d of volume %q is in a state that is not known: a host may be replaying a journal: %w", s.Index, r.fs.header.Label, ErrInUse)
		case s.Journal != 0 && !r.o.DropJournals:
			return nil, fmt.Errorf("%s has left a journal on volume %q, which only a host can replay; have one mount the volume, or lose what is in the journal: %w", s.host(), r.fs.header.Label, ErrInUse)
		default:
			gone = append(gone, s)
		}
	}
	return gone, nil
}

// freeSlot makes a slot that of nobody.
func (r *recovery) freeSlot(s Slot) error {
	return r.write(Released{What: "slot", Host: s.Owner.String()}, int64(s.Address), func(b fields) {
		b.put32(0x00, slotFree)
		b.put64(0x0C, s.Generation+1)
		b.putUUID(0x1C, UUID{})
		b.put32(0x2C, 0)
		clear(b[0x36:0x64]) // address
		b.put64(0x64, 0)    // journal
		clear(b[0x6C:0x7C])
		b.put64(0x94, 0)
		b.put64(0x9C, 0)
	})
}

// leftLock is a lock that is held.
type leftLock struct {
	name string
	at   int64 // in the volume
	lock Lock
}

// freeLock makes a lock that of nobody. Who had it last stays, as when it is given back.
func (r *recovery) freeLock(l leftLock) error {
	host := l.lock.Owner
	if host.IsZero() && len(l.lock.Holders) > 0 {
		host = l.lock.Holders[0].Host
	}
	return r.write(Released{What: "lock", Name: l.name, Host: host.String()}, l.at, func(b fields) {
		b.put64(0x1C, l.lock.Token+1)
		b.put32(0x24, uint32(Unlocked))
		b.putUUID(0x28, UUID{})
		b.put32(0x40, 0)
	})
}

// write changes a sector, if it still is what it was.
func (r *recovery) write(what Released, at int64, change func(fields)) error {
	b := make(fields, disk.SectorSize)
	r.fs.vol.forget(at, int64(len(b)))
	if err := r.fs.vol.readFull(b, at, what.What); err != nil {
		return err
	}
	if b.u64(4) != uint64(at) {
		return r.fs.vol.corrupt(what.What, at, "says that it lies at %d", b.u64(4))
	}
	change(b)
	if m, in, ok := r.fs.vol.find(at); ok {
		what.Device, what.Offset = r.fs.vol.devices[m.device].Name, in
	}
	if !r.o.DryRun {
		if err := r.m.write(b, at); err != nil {
			return err
		}
	}
	r.o.Report(what)
	return nil
}

// locks finds everything that is locked: file descriptors, and clusters of tables.
func (r *recovery) locks(ctx context.Context) ([]leftLock, error) {
	blocks, err := r.fs.blockTable()
	if err != nil {
		return nil, err
	}
	var all []leftLock
	for _, t := range []*resources{blocks, r.fs.fdc, r.fs.pbc, r.fs.sbc, r.fs.pb2} {
		if t == nil || t.total == 0 {
			continue
		}
		for c := range (t.total + t.perCluster - 1) / t.perCluster {
			if err := ctx.Err(); err != nil {
				return nil, context.Cause(ctx)
			}
			l, held, err := r.lockAt(t, int64(t.clusterHeader(c)))
			if err != nil {
				return nil, err
			}
			if held {
				l.name = fmt.Sprintf("%s, cluster %d", t.name, c)
				all = append(all, l)
			}
		}
	}
	files, err := r.descriptors(ctx)
	return append(all, files...), err
}

// lockAt reads a lock in a system file.
func (r *recovery) lockAt(t *resources, off int64) (l leftLock, held bool, err error) {
	s, err := t.file.extend(off, lockLen, 0)
	if err != nil {
		return l, false, err
	}
	if s.where != Stored || s.length < lockLen {
		return l, false, t.file.corrupt("lock", off, "is not in one piece")
	}
	b := make(fields, lockLen)
	if err := r.fs.vol.readFull(b, s.offset, "lock"); err != nil {
		return l, false, err
	}
	l = leftLock{at: s.offset, lock: parseLock(b)}
	return l, l.lock.addr == uint64(s.offset) && l.lock.Mode != Unlocked, nil
}

// descriptors finds the file descriptors that are locked, and names their files.
func (r *recovery) descriptors(ctx context.Context) ([]leftLock, error) {
	t := r.fs.fdc
	found := map[uint32]int{}
	var all []leftLock
	for n := range t.total {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		id := resourceID{cluster: n / t.perCluster, index: n % t.perCluster}
		at, err := t.position(id)
		if err != nil {
			return nil, err
		}
		l, held, err := r.lockAt(t, at)
		if err != nil {
			return nil, err
		}
		if held && l.lock.kind == lockTypeFD {
			addr := descriptorAddress(id)
			l.name = fmt.Sprintf("file descriptor %08x", addr)
			found[addr] = len(all)
			all = append(all, l)
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	err := fs.WalkDir(r.fs, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			if i, infoErr := d.Info(); infoErr == nil {
				if at, ok := found[i.Sys().(*Stat).Address]; ok {
					all[at].name = name
				}
			}
		}
		return nil // what cannot be read has no name here
	})
	return all, errors.Join(err, ctx.Err())
}
