// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/vmstream/vmstream/disk"
)

// watch is the first look at the heartbeats of a volume.
type watch struct {
	mu    sync.Mutex
	slots []Slot
	at    time.Time
}

// firstLook returns the slots as they were at the first look, and when that was.
func (m *mounted) firstLook() ([]Slot, time.Time, error) {
	w := &m.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at.IsZero() {
		var err error
		if w.slots, err = m.Heartbeats(); err != nil {
			return nil, time.Time{}, err
		}
		w.at = time.Now()
	}
	return w.slots, w.at, nil
}

// hosts returns the slots of hosts that have beaten since the first look, which is at
// least [BeatTime] ago then.
func (m *mounted) hosts(ctx context.Context, note func(string)) ([]Slot, error) {
	first, at, err := m.firstLook()
	if err != nil {
		return nil, err
	}
	if wait := time.Until(at.Add(beatTime)); wait > 0 {
		note(fmt.Sprintf("volume %s: looking for %v if a host uses it", m.name, wait.Round(time.Second)))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	now, err := m.Heartbeats()
	return Live(first, now), err
}

// beatTime is shorter in tests.
var beatTime = BeatTime

// writers returns the slot of the host that may write to a file, if its slot is in use.
// Hosts that only read it do not matter.
func (t *Tree) writers(name string) (*mounted, Slot, bool, error) {
	s, err := t.findNow(name, true)
	if err != nil {
		return nil, Slot{}, false, err
	}
	if s.volume == nil {
		return nil, Slot{}, false, nil
	}
	m := s.volume
	l := s.inode.stat.Lock
	if l.Mode == Unlocked || l.Mode == ReadOnly {
		return m, Slot{}, false, nil
	}
	if _, _, err := m.firstLook(); err != nil {
		return nil, Slot{}, false, err
	}
	slots, err := m.Heartbeats()
	slot, held := Held(&l, slots)
	return m, slot, held, err
}

// Holder implements disk.Guard.
func (t *Tree) Holder(name string) (string, error) {
	_, slot, held, err := t.writers(name)
	if err != nil || !held {
		return "", pathError("stat", name, err)
	}
	return slot.host(), nil
}

// host names the host of a slot.
func (s *Slot) host() string {
	if s.IP != "" {
		return fmt.Sprintf("host %s (%s)", s.IP, s.Owner.MAC())
	}
	return "host " + s.Owner.MAC()
}

// CheckUse implements disk.Guard: a host that has the file locked has to live, which
// takes [BeatTime] to find out, once for a volume. In the snapshot of a LUN no host lives.
func (t *Tree) CheckUse(ctx context.Context, name string) error {
	m, slot, held, err := t.writers(name)
	if err != nil || !held {
		return pathError("stat", name, err)
	}
	live, err := m.hosts(ctx, t.note)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(live, func(s Slot) bool { return s.Index == slot.Index }) {
		return &disk.FormatError{File: name, Offset: -1, Err: disk.ErrInUse, Detail: slot.host() + " has it locked"}
	}
	return nil
}

// aboveInfo is a directory above volumes.
type aboveInfo string

// Name implements fs.FileInfo, as do the others.
func (i aboveInfo) Name() string     { return string(i) }
func (aboveInfo) Size() int64        { return 0 }
func (aboveInfo) Mode() fs.FileMode  { return fs.ModeDir | 0o555 }
func (aboveInfo) ModTime() time.Time { return time.Time{} }
func (aboveInfo) IsDir() bool        { return true }
func (aboveInfo) Sys() any           { return nil }
