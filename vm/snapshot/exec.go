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
	"github.com/vmstream/vmstream/vm/process"
	"github.com/vmstream/vmstream/vmdk"
)

// ExecName is the name of the provider Exec.
const ExecName = "exec"

// Exec makes snapshots with the tools of the host. Every disk that is wanted has
// to have one more level afterwards, over the former top, which stands still
// from then on; when the snapshot has been removed, that level has to be gone.
// What the commands say and return is not relied on: the levels are looked at.
type Exec struct {
	ExecCommands

	// Rolling leaves the level of a backup that is complete, and has Remove merge the one
	// that lay over the base before into the base; see [Redo]. Remove needs {level}.
	Rolling bool

	// Line takes what the commands say; nil drops it.
	Line func(string)

	coming time.Duration // in place of comingTime; below 0: none
}

// comingTime is how long after a run was killed that had asked the host for a
// snapshot it may still come.
const comingTime = 15 * time.Minute

// Name returns "exec".
func (*Exec) Name() string { return ExecName }

// Phases of a record.
const (
	execCreating = "creating"
	execCreated  = "created"
	execRemoving = "removing"
	execRolling  = "rolling"
)

// execRecord is what the journal has of a snapshot.
type execRecord struct {
	Commands     ExecCommands `json:"commands"`
	Config       string       `json:"config"`
	AllowOutside bool         `json:"allow_outside,omitempty"`
	BackupID     string       `json:"backup_id"`
	Snapshot     string       `json:"snapshot"` // {name}
	VMID         string       `json:"vmid,omitempty"`
	SnapshotID   string       `json:"snapshot_id,omitempty"`
	Disks        []*execDisk  `json:"disks"`
	Begun        bool         `json:"begun,omitempty"` // Create has been run
	Roll         bool         `json:"roll,omitempty"`  // the backup is complete: the levels stay, those below go
}

// execDisk is a disk over which there is, or may be, a level.
type execDisk struct {
	Key    string `json:"key"`
	Parent string `json:"parent"` // the former top
	Links  int    `json:"links"`  // that the disk had
	Level  string `json:"level,omitempty"`
}

// Create runs the command and looks at what has become of the disks.
func (p *Exec) Create(ctx context.Context, r *Request, e *Entry) (*Snapshot, error) {
	if e == nil {
		return nil, errNoJournal
	}
	x, ts, err := p.prepare(ctx, r, e)
	if err != nil {
		return nil, errors.Join(err, e.End())
	}
	s := &Snapshot{Consistency: Crash}
	if x.rec.Commands.Quiesced {
		s.Consistency = Filesystem
	}
	files, err := x.create(ctx, r, ts, s)
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		err = errors.Join(err, closeAll(s.Disks))
		if rerr := x.remove(undo); rerr != nil {
			return nil, errors.Join(err, rerr)
		}
		if x.mayCome() {
			return nil, fmt.Errorf("%w; there is no snapshot now, but it may still come: run vmstream snapshot reap %s later", err, e.Record().ID)
		}
		return nil, errors.Join(err, e.End())
	}
	s.OnCheck = func(ctx context.Context) error {
		if err := files.changed(); err != nil {
			return err
		}
		return x.check(ctx)
	}
	s.OnRelease = func(ctx context.Context, done bool) error {
		x.rec.Roll = p.Rolling && done
		return x.end(ctx)
	}
	if !p.Rolling {
		s.undoWhenRead()
	}
	return s, nil
}

// end removes the snapshot, or what it lies over, and ends the entry.
func (x *execRun) end(ctx context.Context) error {
	undo := x.remove
	if x.rec.Roll {
		undo = x.roll
	}
	if err := undo(ctx); err != nil {
		return err
	}
	return x.e.End()
}

// execRun is a snapshot on its way, in this run or a later one.
type execRun struct {
	rec  *execRecord
	e    *Entry
	line func(string)
	seen bool // there is, or was, a level of it
	cut  bool // the command that makes it was killed
}

// mayCome reports if a snapshot that is not there may still come: a command that
// was killed, because of its time or by a signal to us, may have asked somebody
// else for it. One that is run for each disk was not killed for those that are there.
func (x *execRun) mayCome() bool {
	return x.cut && (!x.seen || x.rec.Commands.Create.has("disk"))
}

// prepare notes everything that has to be known to undo the snapshot.
func (p *Exec) prepare(ctx context.Context, r *Request, e *Entry) (*execRun, []target, error) {
	if r.VM == nil {
		return nil, nil, fmt.Errorf("%s: the host's tools make snapshots of VMs: name a configuration, and choose disks with --disk: %w", r.Path, disk.ErrUnsupported)
	}
	if err := p.Validate(); err != nil {
		return nil, nil, err
	}
	ts, err := r.targets()
	if err != nil {
		return nil, nil, err
	}
	if err := refuseForRedo(ts); err != nil {
		return nil, nil, err
	}
	x := &execRun{e: e, line: p.Line, rec: &execRecord{
		Commands: p.ExecCommands, Config: r.VM.Path, AllowOutside: r.Open.AllowOutside,
		BackupID: r.BackupID, Snapshot: "vmstream-" + e.Record().ID,
	}}
	if x.rec.Commands.Timeout <= 0 {
		x.rec.Commands.Timeout = DefaultExecTimeout
	}
	for i := range ts {
		links, err := linkPaths(ts[i].vmDisk, r.Open.AllowOutside)
		if err != nil {
			return nil, nil, ts[i].inDisk(err)
		}
		if p.Rolling && len(links) > 2 {
			return nil, nil, errManyLogs(ts[i].Key, len(links))
		}
		x.rec.Disks = append(x.rec.Disks, &execDisk{Key: ts[i].Key, Parent: links[0], Links: len(links)})
	}
	if x.rec.Commands.Machines != "" {
		if err := x.findMachine(ctx); err != nil {
			return nil, nil, err
		}
	}
	return x, ts, nil
}

// create makes the snapshot and opens what stands still.
func (x *execRun) create(ctx context.Context, r *Request, ts []target, s *Snapshot) (still, error) {
	x.rec.Begun = true
	if err := x.e.Save(execCreating, x.rec); err != nil {
		return nil, err
	}
	if err := r.Moment(ctx, x.runCreate); err != nil {
		return nil, err
	}
	if err := x.await(ctx, x.levels); err != nil {
		x.cut = ctx.Err() != nil // the host was not given its time
		return nil, err
	}
	if err := x.findSnapshot(ctx); err != nil {
		return nil, err
	}
	if err := x.e.Save(execCreated, x.rec); err != nil {
		return nil, err
	}
	for i := range ts {
		t := &ts[i]
		t.Path, t.redo = x.rec.Disks[i].Parent, strings.HasSuffix(x.rec.Disks[i].Parent, redoSuffix)
		if t.redo {
			t.format = vmdk.SourceAuto
		} else if t.vmDisk.RedoLogs > 0 {
			t.format = vmdk.SourceRaw
		}
	}
	frozen := *r
	frozen.Open.Frozen = true
	var err error
	if s.Disks, err = openAll(ts, &frozen); err != nil {
		return nil, err
	}
	return watch(nil, s.Disks)
}

func (x *execRun) runCreate(ctx context.Context) error {
	c := x.rec.Commands.Create
	if !c.has("disk") {
		_, err := x.command(ctx, c, nil)
		x.cut = wasKilled(ctx, err)
		return err
	}
	for _, d := range x.rec.Disks {
		if _, err := x.command(ctx, c, map[string]string{"disk": d.Key}); err != nil {
			x.cut = wasKilled(ctx, err)
			return fmt.Errorf("disk %s: %w", d.Key, err)
		}
	}
	return nil
}

func wasKilled(ctx context.Context, err error) bool {
	return err != nil && (ctx.Err() != nil || errors.Is(err, process.ErrTimeout))
}

const maxExecOutput = 1 << 20

// command runs a command with the values that are known, and more.
func (x *execRun) command(ctx context.Context, t Template, more map[string]string) ([]byte, error) {
	values := map[string]string{
		"config": x.rec.Config, "id": x.rec.BackupID, "name": x.rec.Snapshot, "vmid": x.rec.VMID, "snapshot": x.rec.SnapshotID,
	}
	for k, v := range more {
		values[k] = v
	}
	argv, err := t.argv(values)
	if err != nil {
		return nil, err
	}
	c := process.Command{Argv: argv, Timeout: x.rec.Commands.Timeout, Line: x.line, KeepBytes: maxExecOutput}
	return c.Run(ctx)
}

func (x *execRun) check(ctx context.Context) error {
	if x.rec.Commands.Check == "" {
		return nil
	}
	_, err := x.command(ctx, x.rec.Commands.Check, nil)
	return err
}

// Reap removes the snapshot of a run that is gone.
func (p *Exec) Reap(ctx context.Context, e *Entry, _ Voice) error {
	rec := new(execRecord)
	if err := e.Load(rec); err != nil {
		return err
	}
	if slices.Contains(rec.Disks, nil) {
		return recordError(e.dir, errNull)
	}
	x := &execRun{rec: rec, e: e, line: p.Line}
	coming := p.coming
	if coming == 0 {
		coming = comingTime
	}
	if e.Record().Phase != execCreating || time.Since(e.Record().Created) > coming {
		return x.end(ctx)
	}
	x.cut = true // for all that is known
	if err := x.remove(ctx); err != nil {
		return err
	}
	if x.mayCome() {
		return fmt.Errorf("the run was killed while the host was making it: there is nothing of it now, but it may still come until %s: %w",
			e.Record().Created.Add(coming).Format(time.RFC3339), disk.ErrInUse)
	}
	return e.End()
}
