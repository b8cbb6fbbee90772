// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/redo"
	"github.com/vmstream/vmstream/vmdk"
)

// RedoName is the name of the provider Redo.
const RedoName = "redo"

// undoTime bounds how long a snapshot that could not be made is undone.
const undoTime = 15 * time.Minute

// Redo puts a redo log over each disk of a machine that is powered off. What is
// below stands still from then on, also if somebody starts the machine. To
// release the snapshot the logs are committed.
type Redo struct {
	// Keep leaves the logs of a backup that is complete where they are, and
	// forgets them.
	Keep bool

	// Rolling leaves the log of a backup that is complete, too, and merges the one
	// that lay over the base before into the base: what the next backup is to
	// take collects in one log. Of a backup that is not, the new log is merged
	// into that one.
	Rolling bool
}

// Name returns "redo".
func (Redo) Name() string { return RedoName }

var errNoJournal = errors.New("a snapshot that leaves something behind needs a journal")

// Phases of a record.
const (
	redoAdding     = "adding"
	redoAdded      = "added"
	redoCommitting = "committing"
	redoRolling    = "rolling"
)

// redoRecord is what the journal has of a snapshot.
type redoRecord struct {
	Config       string       `json:"config,omitempty"` // "" for a disk alone
	AllowOutside bool         `json:"allow_outside,omitempty"`
	AllowInUse   bool         `json:"allow_in_use,omitempty"`
	InUse        []string     `json:"in_use,omitempty"` // hints that were there before
	Roll         bool         `json:"roll,omitempty"`   // the backup is complete: the levels stay, those below go
	Levels       []*redoLevel `json:"levels"`
}

// redoLevel is a level that is, or may have been, put over a disk.
type redoLevel struct {
	Key    string            `json:"key"`
	Format vmdk.SourceFormat `json:"format,omitempty"` // of a disk alone
	Parent string            `json:"parent"`           // the former top
	Path   string            `json:"path,omitempty"`   // of the level, "" as long as there is nothing of it
	LinkID uint32            `json:"link_id,omitempty"`
	Below  int               `json:"below"` // levels that the disk had, with the base
	Gone   bool              `json:"gone,omitempty"`
}

// Create adds a level to each disk that is wanted. Independent, nonpersistent
// and shared disks are refused: they take no part in snapshots.
func (p Redo) Create(ctx context.Context, r *Request, e *Entry) (*Snapshot, error) {
	if e == nil {
		return nil, errNoJournal
	}
	ts, err := r.targets()
	if err != nil {
		return nil, errors.Join(err, e.End())
	}
	if err := errors.Join(r.checkRunning(), refuseForRedo(ts)); err != nil {
		return nil, errors.Join(err, e.End())
	}
	s := &Snapshot{Consistency: r.consistency()}
	rec, err := newRedoRecord(ctx, ts, r)
	if err == nil && p.Rolling {
		err = rec.mayRoll(ctx, ts, r)
	}
	if err == nil {
		s.Disks, err = openAll(ts, r)
	}
	if err != nil {
		return nil, errors.Join(err, closeAll(s.Disks), e.End())
	}
	files, err := watch(nil, s.Disks)
	if err == nil {
		err = r.Moment(ctx, func(ctx context.Context) error { return rec.addAll(ctx, ts, r, e) })
	}
	if err == nil { // what is frozen has to be what was opened
		err = errors.Join(files.changed(), e.Save(redoAdded, rec))
	}
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		return nil, errors.Join(err, closeAll(s.Disks), rec.commitAll(undo, e, r.Warn))
	}
	for i := range s.Disks {
		if d := &s.Disks[i]; d.Info.CID == 0 {
			d.Info.CID = rec.Levels[i].LinkID
		}
	}
	s.OnCheck = func(context.Context) error { return files.changed() }
	s.OnRelease = func(ctx context.Context, done bool) error {
		switch {
		case p.Rolling && done:
			rec.Roll = true
			return rec.rollAll(ctx, e, r.Warn)
		case p.Keep && done:
			return e.End()
		}
		return rec.commitAll(ctx, e, r.Warn)
	}
	if !p.Rolling && !p.Keep {
		s.undoWhenRead()
	}
	return s, nil
}

// refuseForRedo refuses disks that a redo log must not be put over.
func refuseForRedo(ts []target) error {
	for i := range ts {
		t := &ts[i]
		d := t.vmDisk
		if d == nil {
			continue
		}
		why := ""
		switch {
		case d.Shared:
			why = "is shared with other VMs"
		case d.Mode.Independent() || d.Mode.Volatile():
			why = fmt.Sprintf("is %s: it takes no part in snapshots", d.Mode)
		default:
			continue
		}
		return fmt.Errorf("%s: disk %s %s: %w; take the other disks with --disk, or all with --snapshot none", t.machine.Path, t.Key, why, disk.ErrUnsupported)
	}
	return nil
}

// newRedoRecord finds the tops of the disks.
func newRedoRecord(ctx context.Context, ts []target, r *Request) (*redoRecord, error) {
	rec := &redoRecord{AllowOutside: r.Open.AllowOutside, AllowInUse: r.AllowInUse}
	if r.VM != nil {
		rec.Config, rec.InUse = r.VM.Path, r.VM.InUse
	}
	for i := range ts {
		t := &ts[i]
		c, err := redo.List(ctx, t.Path, t.redoOptions(r))
		if err != nil {
			return nil, t.inDisk(err)
		}
		if err := refuseNamed(t, c); err != nil {
			return nil, err
		}
		if err := redo.CheckTop(c.Path, t.redoOptions(r)); err != nil { // the log would stay for ever
			return nil, t.inDisk(fmt.Errorf("a redo log over it could not be committed: %w", err))
		}
		rec.Levels = append(rec.Levels, &redoLevel{Key: t.Key, Format: t.Disk.sourceFormat(t.format, c), Parent: c.Path, Below: len(c.Levels)})
		t.Path, t.redo = c.Path, c.ESX2 && len(c.Levels) > 1
		t.format = vmdk.SourceVMDK
		if c.ESX2 {
			t.format = vmdk.SourceRaw
		}
		if t.redo {
			t.format = vmdk.SourceAuto
		}
	}
	return rec, nil
}

// refuseNamed refuses a disk alone that a configuration beside it names: that
// one would not know the new top.
func refuseNamed(t *target, c *redo.Chain) error {
	if t.vmDisk != nil || c.ESX2 {
		return nil
	}
	for i := range c.Levels {
		names, err := redo.Referrers(c.Levels[i].Path)
		if err != nil {
			return err
		}
		if len(names) > 0 {
			return fmt.Errorf("%s: %s names it: %w; back up that configuration with --disk in place of the disk", t.Path, strings.Join(names, ", "), disk.ErrUnsupported)
		}
	}
	return nil
}

// sourceFormat returns what to say of a disk's base when it is looked for again.
func (d *Disk) sourceFormat(was vmdk.SourceFormat, c *redo.Chain) vmdk.SourceFormat {
	if c.ESX2 {
		return vmdk.SourceRaw
	}
	return was
}

// addAll puts a level over each disk. The record has each before it is made.
func (rec *redoRecord) addAll(ctx context.Context, ts []target, r *Request, e *Entry) error {
	for i := range ts {
		t, l := &ts[i], rec.Levels[i]
		o := redo.AddOptions{Options: t.redoOptions(r), Mode: t.Mode, Announce: func(path string, id uint32) error {
			l.Path, l.LinkID = path, id
			return e.Save(redoAdding, rec)
		}}
		if t.vmDisk == nil {
			o.Format = l.Format
		}
		a, err := redo.Add(ctx, l.Parent, o)
		if err != nil {
			return t.inDisk(err)
		}
		if a.Parent != l.Parent {
			return t.inDisk(fmt.Errorf("%s was added over %s, not over %s: %w", a.Path, a.Parent, l.Parent, disk.ErrMismatch))
		}
	}
	return nil
}

// Reap commits the levels of a run that is gone. A machine that is running is
// let be.
func (Redo) Reap(ctx context.Context, e *Entry, to Voice) error {
	var rec redoRecord
	if err := e.Load(&rec); err != nil {
		return err
	}
	if slices.Contains(rec.Levels, nil) {
		return recordError(e.dir, errNull)
	}
	if rec.Roll {
		return rec.rollAll(ctx, e, to.Warn)
	}
	return rec.commitAll(ctx, e, to.Warn)
}
