// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/redo"
	"github.com/vmstream/vmstream/vm"
)

// commitAll merges the levels into what is below them and ends the entry. What
// cannot be merged stays in the record.
func (rec *redoRecord) commitAll(ctx context.Context, e *Entry, warn func(string)) error {
	if err := e.Save(redoCommitting, rec); err != nil { // looking at the disks tells the same
		warn(notNoted(err))
	}
	return rec.forEach(e, redoCommitting, func(m *vm.VM, l *redoLevel) error { return rec.commit(ctx, m, l, e, warn) })
}

// forEach does something with each level that is left, the last one first, and
// ends the entry.
func (rec *redoRecord) forEach(e *Entry, phase string, do func(*vm.VM, *redoLevel) error) error {
	m, err := rec.machine()
	if err != nil {
		return rec.left(e, err)
	}
	var errs []error
	var unsaved error // no matter if all goes well: who does it again finds it done
	for i := len(rec.Levels) - 1; i >= 0; i-- {
		l := rec.Levels[i]
		if l.Gone || l.Path == "" {
			continue
		}
		if err := do(m, l); err != nil {
			errs = append(errs, err)
			continue
		}
		l.Gone = true
		unsaved = e.Save(phase, rec)
	}
	if err := errors.Join(errs...); err != nil {
		return rec.left(e, errors.Join(err, unsaved))
	}
	return e.End()
}

// left says what has to be done about levels that stay.
func (rec *redoRecord) left(e *Entry, err error) error {
	var paths []string
	for _, l := range rec.Levels {
		if !l.Gone && l.Path != "" {
			paths = append(paths, l.Path)
		}
	}
	return fmt.Errorf("the redo logs of the snapshot stay (%s): %w; run vmstream snapshot reap %s later", strings.Join(paths, ", "), err, e.Record().ID)
}

// machine reads the configuration anew, nil if there is none, and refuses one
// that has been started since.
func (rec *redoRecord) machine() (*vm.VM, error) {
	if rec.Config == "" {
		return nil, nil
	}
	load := vm.LoadOptions{NoLogs: true}
	if !rec.AllowOutside {
		load.Roots = vm.DefaultRoots()
	}
	m, err := vm.Load(rec.Config, load)
	if err != nil {
		return nil, err
	}
	if started := m.StartedSince(rec.InUse); len(started) > 0 {
		return nil, fmt.Errorf("%s: the VM seems to have been started (%s): %w; power it off", m.Path, strings.Join(started, ", "), disk.ErrInUse)
	}
	return m, nil
}

// options returns what package redo needs to know of the disk of a level.
func (rec *redoRecord) options(m *vm.VM, l *redoLevel, warn func(string)) (redo.Options, error) {
	o := redo.Options{Format: l.Format, AllowOutside: rec.AllowOutside, AllowInUse: rec.AllowInUse, Warn: warn}
	if m == nil {
		return o, nil
	}
	for i := range m.Disks {
		if d := &m.Disks[i]; d.Key == l.Key {
			return m.RedoOptions(d, o), nil
		}
	}
	return o, fmt.Errorf("%s: disk %s: %w", m.Path, l.Key, errNoDisk)
}

// commit merges one level. It may be called again, whatever an earlier call
// was interrupted by.
func (rec *redoRecord) commit(ctx context.Context, m *vm.VM, l *redoLevel, e *Entry, warn func(string)) error {
	o, err := rec.options(m, l, warn)
	if err != nil {
		return err
	}
	pending, err := redo.FindPending(l.Path, o)
	if err == nil && pending == nil { // an addition may have got no further
		pending, err = redo.FindPending(l.Parent, o)
	}
	switch {
	case err != nil:
		return err
	case pending != nil && pending.Operation == redo.OpCommit:
		return commitLevel(ctx, l.Path, redo.CommitOptions{Options: o}, rec.AllowInUse)
	case pending != nil && pending.Operation == redo.OpAdd:
		add := redo.AddOptions{Options: o, Announce: func(path string, id uint32) error {
			l.Path, l.LinkID = path, id
			return e.Save(redoAdding, rec)
		}}
		if _, err := redo.Add(ctx, l.Parent, add); err != nil {
			return err
		}
	}
	if !exists(l.Path) {
		return nil
	}
	c, err := redo.List(ctx, l.Path, o)
	if err != nil {
		return err
	}
	for i := range c.Levels {
		level := &c.Levels[i]
		switch {
		case level.Path != l.Path:
			continue
		case level.LinkID != 0 && level.LinkID != l.LinkID:
			return nil // ours was committed, another has its name
		}
		return commitLevel(ctx, c.Path, redo.CommitOptions{Options: o, Level: i}, rec.AllowInUse, level.Files...)
	}
	return fmt.Errorf("%s is no level of the disk any more: %w", l.Path, disk.ErrMismatch)
}

// commitLevel commits. Where locks are taken for leftovers, processes that have
// a file open are not.
func commitLevel(ctx context.Context, path string, o redo.CommitOptions, allowInUse bool, files ...string) error {
	if allowInUse {
		if err := redo.CheckOpen(files...); err != nil {
			return err
		}
	}
	_, err := redo.Commit(ctx, path, o)
	return err
}
