// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm/nbd"
	"github.com/vmstream/vmstream/vm/qmp"
	"github.com/vmstream/vmstream/vm/snapshot"
	"github.com/vmstream/vmstream/vmdk"
)

// undoTimeout bounds undoing a snapshot that could not be made.
const undoTimeout = 2 * time.Minute

// Create makes a snapshot of all disks that are wanted, at one moment.
func (p *Provider) Create(ctx context.Context, r *snapshot.Request, e *snapshot.Entry) (*snapshot.Snapshot, error) {
	if e == nil {
		return nil, errors.New("a snapshot in QEMU is not made without a journal")
	}
	if p.opt.Socket == "" {
		return nil, errors.Join(fmt.Errorf("the path of the QMP socket is missing: %w", disk.ErrUnsupported), e.End())
	}
	c, err := qmp.Dial(ctx, p.opt.Socket)
	if err != nil {
		return nil, errors.Join(err, e.End())
	}
	mode := p.opt.Mode
	if mode == Auto {
		mode = Fleece
	}
	t := &taking{
		session: &session{Client: c, rec: &record{Socket: p.opt.Socket, Agent: p.opt.Agent, Mode: mode}, entry: e, hook: p.hook, warn: r.Warn, detail: r.Detail},
		opt:     p.opt, tempDir: p.tempDir, r: r, snap: &snapshot.Snapshot{Consistency: snapshot.Crash},
	}
	if err := t.take(ctx); err != nil {
		t.closeImages()
		if errors.Is(err, errKilled) {
			return nil, errors.Join(err, c.Close())
		}
		uctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return nil, errors.Join(err, t.undo(uctx, false), c.Close())
	}
	return t.snap, nil
}

// taking is a snapshot on its way.
type taking struct {
	*session
	opt     Options
	tempDir string
	r       *snapshot.Request
	disks   []*guestDisk // as rec.Disks
	snap    *snapshot.Snapshot
	guard   *guard
}

func (t *taking) take(ctx context.Context) error {
	if err := t.plan(ctx); err != nil {
		return err
	}
	if err := t.save(phasePrepare); err != nil {
		return err
	}
	if err := t.do(ctx, "blockdev-add", args{"driver": "null-co", "node-name": t.rec.Marker, "size": 512}); err != nil {
		return err
	}
	if t.rec.Mode == Fleece {
		for i, d := range t.rec.Disks {
			if err := t.prepareFleece(ctx, d, t.disks[i].sizeBytes); err != nil {
				return fmt.Errorf("%s: %w", d.Key, err)
			}
		}
	}
	if err := t.startServer(ctx); err != nil {
		return err
	}
	t.guard = t.newGuard() // before the moment, so that it misses no event
	if err := t.moment(ctx); err != nil {
		return err
	}
	if err := t.save(phaseTaken); err != nil {
		return err
	}
	for i := range t.disks {
		if err := t.openDisk(ctx, i); err != nil {
			return fmt.Errorf("%s: %w", t.disks[i].key, err)
		}
	}
	t.guard.start()
	t.snap.OnCheck = t.check
	t.snap.OnEndReading = t.endReading
	t.snap.OnRelease = t.release
	return nil
}

// plan looks for the disks and gives all names out.
func (t *taking) plan(ctx context.Context) (err error) {
	if err := t.noIOThreads(ctx); err != nil {
		return err
	}
	if t.disks, err = t.guestDisks(ctx, t.r); err != nil {
		return err
	}
	var name struct {
		Name string `json:"name"`
	}
	if err := t.Run(ctx, "query-name", nil, &name); err != nil {
		return err
	}
	t.snap.Machine = name.Name
	tag := tag(t.entry)
	t.rec.Marker = nodePrefix + tag + "-m"
	for i, g := range t.disks {
		d := &diskRecord{Key: g.key, Device: g.device, Node: g.node, Driver: g.driver, File: g.file}
		dir, err := g.scratchDir(t.opt)
		if err != nil {
			return err
		}
		d.name(tag, i, dir)
		if !t.opt.NoBitmaps {
			d.nameBitmap(g.bitmaps, t.r.BackupID)
			if !g.persistent {
				t.detail(fmt.Sprintf("%s: the dirty bitmap of a %s disk ends with QEMU's process", g.key, g.driver))
			}
		}
		t.rec.Disks = append(t.rec.Disks, d)
	}
	t.rec.ServerDir = serverDir(t.tempDir, tag)
	return nil
}

// openDisk exports the i-th disk and opens it.
func (t *taking) openDisk(ctx context.Context, i int) error {
	g, d := t.disks[i], t.rec.Disks[i]
	var since []string
	var sinceErr error
	if t.r.ParentID != "" {
		since, sinceErr = g.since(t.r.ParentID)
	}
	node := d.Node
	if t.rec.Mode == Fleece {
		node = d.TempNode
	}
	if err := t.export(ctx, d, node, since); err != nil {
		return err
	}
	im, err := t.open(ctx, d, g.sizeBytes, since)
	if err != nil {
		return err
	}
	out := snapshot.Disk{
		Key: g.key, Name: g.name, Base: filepath.Base(g.file), Path: g.file,
		Image: &guarded{im, t.guard}, Info: vmdk.Info{Kind: g.driver, SizeBytes: g.sizeBytes, ParentCID: vmdk.NoParent},
	}
	if v := g.vmDisk; v != nil {
		out.Base, out.Adapter, out.Mode = v.File.Base, v.Adapter, v.ModeWritten
	}
	if !t.opt.NoBitmaps {
		out.Changes = changes(g.key, t.r.ParentID, im, since, sinceErr)
	}
	t.snap.Disks = append(t.snap.Disks, out)
	return nil
}

// changes returns the function of a disk that tells what has changed. Only the
// bitmaps for the parent that was asked for are exported.
func changes(key, parentID string, im *nbd.Image, since []string, err error) func(string) (snapshot.Runs, error) {
	return func(id string) (snapshot.Runs, error) {
		switch {
		case id != parentID || id == "":
			return nil, fmt.Errorf("%s: the snapshot was made for an increment on %q, not on %q: %w", key, parentID, id, disk.ErrMismatch)
		case err != nil:
			return nil, err
		}
		return &changed{im, since}, nil
	}
}

func (t *taking) closeImages() {
	if t.guard != nil {
		t.guard.stop()
	}
	for _, d := range t.snap.Disks {
		_ = d.Image.Close() // what was read is of no use
	}
}

// endReading ends what the guest's writes are slowed by: the bitmaps wait for what
// becomes of the backup.
func (t *taking) endReading(ctx context.Context) error {
	t.guard.stop()
	if err := t.letGo(ctx); err != nil {
		return err
	}
	if t.guard.gaveUp() {
		t.resume(ctx)
	}
	return nil
}

// release undoes the snapshot.
func (t *taking) release(ctx context.Context, done bool) error {
	t.guard.stop()
	err := t.undo(ctx, done)
	if t.guard.gaveUp() && err == nil {
		t.resume(ctx)
	}
	return errors.Join(err, t.Close())
}
