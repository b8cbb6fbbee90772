// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vm/snapshot"
	"github.com/vmstream/vmstream/vmdk"
)

func runBackup(ctx context.Context, a *app, o *backupOptions, path string) error {
	so, err := o.streamOptions(a)
	if err != nil {
		return err
	}
	at, err := o.volumes.locate(a, path)
	if err != nil {
		return err
	}
	defer at.close()
	path, o.source.Tree, o.source.Under = at.paths[0], at.tree, at.under
	var out io.Writer // stdout, if something goes there
	if err := o.store.validate(o.id, o.time); err != nil {
		return err
	}
	if o.store.usesStdout() {
		if out, err = a.streamOutput(); err != nil {
			return err
		}
	}
	defer o.store.close()
	if err := o.store.open(ctx, a, out); err != nil {
		return err
	}
	if err := o.prepare(ctx, a, out, path, so.ID); err != nil {
		return err
	}
	report, err := o.hooked(ctx, a, func() (func(), error) { return o.stream(ctx, a, out, path, so) })
	if err != nil {
		return err
	}
	report()
	return a.done()
}

// prepare makes the options of the source. Nothing is begun.
func (o *backupOptions) prepare(ctx context.Context, a *app, out io.Writer, path, id string) error {
	p, err := o.snapshot.provider(a)
	if err != nil {
		return err
	}
	if o.source.Tree != nil && p.Name() != snapshot.NoneName {
		return cli.Usage(fmt.Errorf("--snapshot %s is for files of the operating system: what is on a VMFS volume is read as it is, best from a snapshot of the LUN", p.Name()))
	}
	h := &o.hooks
	h.id, h.name, h.path, h.provider = id, o.source.Name, path, p.Name()
	if err := h.validate(); err != nil {
		return err
	}
	if h.freezes() && p.Name() == snapshot.NoneName {
		return cli.Usage(errors.New("--pre-freeze and --post-thaw run around the making of a snapshot, and --snapshot none makes none: use --pre and --post"))
	}
	n := &o.source.Snapshot
	if o.since != "" && o.source.SkipFree {
		return cli.Usage(errors.New("--skip-free does not go with --since: increments have what has changed, free or not"))
	}
	if o.since != "" {
		if o.parent, err = a.parent(ctx, o.since); err != nil {
			return cli.Source(err)
		}
		n.ParentID = o.parent.ID
	}
	if n.Journal, err = o.snapshot.journal(p); err != nil {
		return err
	}
	o.source.Format, o.source.Warn = vmdk.SourceFormat(o.sourceFormat), a.console.Warn
	n.Provider, n.BackupID = p, id
	n.Detail = func(s string) { a.console.Detail("%s", s) }
	n.Opened = func(key string, files []string) error {
		if writesItself(out, files) {
			return cli.Usage(fmt.Errorf("disk %s: stdout is one of its files", key))
		}
		return o.store.refuse(key, files)
	}
	n.Named = func(name string) { h.name = name }
	if h.freezes() {
		n.Before, n.After = h.before(a), h.after(a)
	}
	return nil
}

// hooked runs do between the hooks of the run. What do returns is what there
// is to say at the end.
func (o *backupOptions) hooked(ctx context.Context, a *app, do func() (func(), error)) (report func(), err error) {
	h := &o.hooks
	status := cli.ExitFailed
	defer func() { // also if do panics
		if status != cli.ExitDone && status != cli.ExitWarnings {
			o.undo(ctx, a, status)
		}
		if err := h.run(context.WithoutCancel(ctx), a, "post", h.post, status); err != nil {
			a.console.Warn(err.Error())
		}
	}()
	if err = h.run(ctx, a, "pre", h.pre, 0); err == nil {
		report, err = do()
	}
	err = cli.Source(err)
	if status, _ = judge(ctx, err); err == nil && a.console.Warnings() > 0 {
		status = cli.ExitWarnings
	}
	return report, err
}

// stream writes the stream and releases the source, on every way out.
func (o *backupOptions) stream(ctx context.Context, a *app, out io.Writer, path string, so stream.Options) (report func(), err error) {
	src, err := pipeline.OpenSource(ctx, path, o.source)
	if err != nil {
		return nil, o.snapshot.hintInUse(err)
	}
	release := func(done bool) {
		if err := src.Release(ctx, done); err != nil {
			a.console.Warn(err.Error())
		}
	}
	defer release(false) // nothing is left to do behind another one
	o.hooks.name, o.hooks.consistency = src.Name, string(src.Consistency)
	src.Track(o.tracking.fullTrack())
	if o.parent != nil {
		if err := o.increment(ctx, a, src, &so); err != nil {
			return nil, err
		}
	}
	a.console.Detail("backup %s of %s: %d disks, %d other files", so.ID, src.Name, len(src.Disks), len(src.Files))
	w, store, err := o.store.begin(ctx, out, src.Name, so.ID, so.Codec.Name)
	if err != nil {
		return nil, err
	}
	p := a.console.Watch(so.Counters)
	res, err := pipeline.Backup(ctx, w, src, so)
	if err == nil { // to store what waits may take longer than it took to read it
		if err := src.EndReading(ctx); err != nil {
			a.console.Detail("ending the snapshot has to be tried again: %v", err)
		}
	}
	// The source must not begin anew before everything is stored.
	places, err := a.storeEnd(ctx, store, res, err)
	took := p.Stop()
	if err != nil {
		return nil, err
	}
	if o.indexOut != "" {
		if err := writeFile(o.indexOut, res.IndexJSON); err != nil {
			return nil, &cli.Error{Code: cli.ExitFailed, Err: err}
		}
	}
	release(true)
	return func() { reportBackup(a, res, src.Snapshot, so.Counters, took, o.auditedBytes, places) }, nil
}

// increment makes the backup one on an earlier one, if what tells the changes
// stands the audit.
func (o *backupOptions) increment(ctx context.Context, a *app, src *pipeline.Source, so *stream.Options) error {
	ix := o.parent
	if src.Name != ix.Opening.VMName() { // which --name may have said
		return fmt.Errorf("backup %s in %s is of %s, this is %s: %w; if that is only a new name, say --name %s", ix.ID, o.since, ix.Opening.VMName(), src.Name, disk.ErrMismatch, ix.Opening.VMName())
	}
	so.Parent = ix.Opening
	detail := func(s string) { a.console.Detail("%s", s) }
	err := src.Since(ix, pipeline.SinceOptions{TrackBytes: int64(o.tracking.track), Detail: detail})
	if err != nil {
		return err
	}
	o.auditedBytes, err = stream.Audit(ctx, src.Disks, ix, stream.AuditOptions{
		ID: so.ID, Share: float64(o.tracking.audit), Workers: so.Workers, MemoryBytes: so.MemoryBytes, Detail: detail,
	})
	return err
}
