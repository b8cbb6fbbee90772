// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"fmt"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/redo"
	"github.com/vmstream/vmstream/vm"
)

// mayRoll refuses disks that have more over their base than the log of the
// backup before, and those whose log could not be merged into the base in the end,
// such as that of a VM with snapshots of its own.
func (rec *redoRecord) mayRoll(ctx context.Context, ts []target, r *Request) error {
	for i, l := range rec.Levels {
		if l.Below > 2 {
			return errManyLogs(l.Key, l.Below)
		}
		if l.Below < 2 {
			continue
		}
		o := redo.CommitOptions{Options: ts[i].redoOptions(r), Level: 1, DryRun: true}
		if _, err := redo.Commit(ctx, l.Parent, o); err != nil {
			return ts[i].inDisk(fmt.Errorf("its redo log could not be merged when the backup is complete: %w", err))
		}
	}
	return nil
}

func errManyLogs(key string, levels int) error {
	return fmt.Errorf("disk %s: there are %d redo logs over its base, and one is the most: %w; run vmstream snapshot reap, or commit what is not the backup's", key, levels-1, disk.ErrUnsupported)
}

// rollAll merges what lies between the base and each new level into the base,
// and ends the entry. It is called once the backup is complete: until the
// record says so, the new levels are merged downwards instead, so that the old
// log has all that has changed since the last backup that counts.
func (rec *redoRecord) rollAll(ctx context.Context, e *Entry, warn func(string)) error {
	if err := e.Save(redoRolling, rec); err != nil { // on which it depends which level goes
		return rec.left(e, err)
	}
	return rec.forEach(e, redoRolling, func(m *vm.VM, l *redoLevel) error { return rec.roll(ctx, m, l, warn) })
}

// roll merges the first level of one disk into its base. It may be called
// again, whatever an earlier call was interrupted by: the place of the new level
// tells what has been done.
func (rec *redoRecord) roll(ctx context.Context, m *vm.VM, l *redoLevel, warn func(string)) error {
	if l.Below < 2 { // there was only the base: the new level is the first
		return nil
	}
	o, err := rec.options(m, l, warn)
	if err != nil {
		return err
	}
	pending, err := redo.FindPending(l.Parent, o)
	if err != nil {
		return err
	}
	if pending != nil && pending.Operation == redo.OpCommit {
		return commitLevel(ctx, pending.Child, redo.CommitOptions{Options: o}, rec.AllowInUse)
	}
	base := l.Path
	if !exists(base) { // it has taken the name of the level below it
		base = l.Parent
	}
	c, err := redo.List(ctx, base, o)
	if err != nil {
		return err
	}
	switch l.place(c) {
	case 1:
		return nil
	case 2:
		return commitLevel(ctx, c.Path, redo.CommitOptions{Options: o, Level: 1}, rec.AllowInUse, c.Levels[1].Files...)
	}
	return fmt.Errorf("disk %s: %s is not where it was put, over %s: %w", l.Key, l.Path, l.Parent, disk.ErrMismatch)
}

// place returns at which level of a chain the level is, -1 if at none. Names of
// ESX 2.x move down when something below is merged; a product may have dropped
// the id.
func (l *redoLevel) place(c *redo.Chain) int {
	for i := range c.Levels {
		if id := c.Levels[i].LinkID; id != 0 && id == l.LinkID {
			return i
		}
	}
	for i := range c.Levels {
		if id := c.Levels[i].LinkID; id == 0 && c.Levels[i].Path == l.Path {
			return i
		}
	}
	if c.ESX2 && len(c.Levels) == 2 && strings.HasSuffix(l.Path, redoSuffix) {
		return 1
	}
	return -1
}
