// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/internal/remote"
	"github.com/vmstream/vmstream/internal/sums"
	"github.com/vmstream/vmstream/redo"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vm/snapshot"
	"github.com/vmstream/vmstream/vmdk"
)

// vmsnap is a run.
type vmsnap struct {
	*vmsnapOptions
	log   *classicLog
	taken []string // keys of the disks

	provider snapshot.Provider
	onHost   bool // it works on a VM that is running

	began      time.Time
	counters   *stream.Counters
	name       string
	dir        string // of the backup
	need, free int64  // bytes; free is -1 if it is not known
	paths      []string
}

func runVmsnap(ctx context.Context, a *app, o *vmsnapOptions) error {
	if err := o.validate(); err != nil {
		return err
	}
	s := &vmsnap{vmsnapOptions: o, log: o.newLog(a, "vmsnap"), began: time.Now(), counters: new(stream.Counters)}
	defer s.log.close()
	return s.log.fail(s.run(ctx))
}

func (s *vmsnap) run(ctx context.Context) error {
	if err := s.list(ctx); err != nil {
		return err
	}
	if err := s.look(ctx); err != nil {
		return err
	}
	if s.commit {
		if err := s.commitPresent(ctx); err != nil {
			return cli.Source(err)
		}
	}
	if err := s.export(ctx); err != nil {
		return err
	}
	if s.server != "" {
		if err := s.send(ctx); err != nil {
			return err
		}
	}
	s.report()
	return nil
}

// load reads the configuration as it is now.
func (s *vmsnap) load() (*vm.VM, error) {
	load := vm.LoadOptions{NoLogs: true}
	if !s.allowOutside {
		load.Roots = vm.DefaultRoots()
	}
	return vm.Load(s.config, load)
}

// list tells which disks there are and which of them are taken.
func (s *vmsnap) list(ctx context.Context) error {
	m, err := s.load()
	if err != nil {
		return cli.Source(err)
	}
	s.log.say("Virtual machine: %s (%s)", m.Name, m.Path)
	for i := range m.Disks {
		d := &m.Disks[i]
		why := ""
		switch {
		case d.Shared:
			why = "shared with other VMs"
		case d.Mode != vm.ModePersistent:
			why = "not persistent"
		default:
			s.taken = append(s.taken, d.Key)
		}
		if why != "" {
			s.log.say("Disk skipped: %s %s (%s): %s", d.Key, d.Path, mode(d), why)
			continue
		}
		s.log.say("Disk found: %s %s (%s)", d.Key, d.TopPath, mode(d))
	}
	if len(s.taken) == 0 {
		return cli.Source(fmt.Errorf("%s: the VM has no persistent disk: %w", m.Path, disk.ErrUnsupported))
	}
	s.name, s.dir = m.Name, filepath.Join(s.localDir, m.Name)
	if err := s.checkPlace(m); err != nil {
		return err
	}
	return s.choose(ctx, m)
}

func mode(d *vm.Disk) string {
	if d.Mode == "" {
		return d.ModeWritten
	}
	return string(d.Mode)
}

// checkPlace refuses to replace what is no backup, least of all the VM itself.
func (s *vmsnap) checkPlace(m *vm.VM) error {
	there, err := os.Stat(s.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	files := []string{m.Path}
	for i := range m.Disks {
		files = append(files, m.Disks[i].Path, m.Disks[i].TopPath)
	}
	for _, file := range files {
		if isBelow(file, there) {
			return cli.Usage(fmt.Errorf("%s is the directory of the VM itself, or one above it; choose another one with -d", s.dir))
		}
	}
	if s.force {
		return nil
	}
	return checkBackup(s.dir)
}

// isBelow reports if a file lies in a directory, or further down.
func isBelow(file string, dir os.FileInfo) bool {
	for at := filepath.Dir(file); ; at = filepath.Dir(at) {
		if st, err := os.Stat(at); err == nil && os.SameFile(st, dir) {
			return true
		}
		if at == filepath.Dir(at) {
			return false
		}
	}
}

// checkBackup refuses a directory with anything in it that is not listed in its
// SHA256SUMS.
func checkBackup(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return err
	}
	listed, err := sums.Read(dir)
	if err != nil {
		return fmt.Errorf("%s exists and is no backup that vmsnap has made; --force replaces it: %w", dir, err)
	}
	for _, e := range entries {
		known := e.Name() == sums.Name || slices.ContainsFunc(listed, func(l sums.Entry) bool { return l.Name == e.Name() })
		if !known || !e.Type().IsRegular() {
			return fmt.Errorf("%s exists, and %s in it is not of a backup; --force replaces it: %w", dir, e.Name(), os.ErrExist)
		}
	}
	return nil
}

// sourceOptions are how the VM is opened.
func (s *vmsnap) sourceOptions() pipeline.SourceOptions {
	return pipeline.SourceOptions{
		AllowOutside: s.allowOutside, PadShort: s.padShort, AllowInUse: s.allowInUse, Disks: s.taken, Warn: s.log.warn,
	}
}

// look opens everything once and compares what is needed with what is free,
// before anything is changed.
func (s *vmsnap) look(ctx context.Context) error {
	o := s.sourceOptions()
	o.AllowInUse = o.AllowInUse || s.onHost // nothing of it is kept
	src, err := pipeline.OpenSource(ctx, s.config, o)
	if err != nil {
		return cli.Source(err)
	}
	s.need, err = pipeline.Need(ctx, src)
	if err = errors.Join(err, src.Close()); err != nil {
		return cli.Source(err)
	}
	free := "unknown"
	s.free = -1
	if n, ok := pipeline.FreeSpace(s.localDir); ok {
		s.free, free = n, cli.Bytes(n)
	}
	s.log.say("Free space in %s: %s, needed: up to %s", s.localDir, free, cli.Bytes(s.need))
	if s.free >= 0 && s.free < s.need && !s.ignoreSpace {
		return fmt.Errorf("%s: the backup may take %d bytes and %d are free; --ignore-space tries it all the same", s.localDir, s.need, s.free)
	}
	return nil
}

// commitPresent commits the redo logs that are there.
func (s *vmsnap) commitPresent(ctx context.Context) error {
	m, err := s.load()
	if err != nil {
		return err
	}
	for i := range m.Disks {
		d := &m.Disks[i]
		if !slices.Contains(s.taken, d.Key) {
			continue
		}
		o := m.RedoOptions(d, redo.Options{AllowOutside: s.allowOutside, AllowInUse: s.allowInUse, Warn: s.log.warn})
		for path := d.TopPath; ; {
			c, err := redo.List(ctx, path, o)
			if err != nil {
				return fmt.Errorf("disk %s: %w", d.Key, err)
			}
			if len(c.Levels) == 1 && c.Pending == nil {
				break
			}
			s.log.say("Committing redo log: %s %s", d.Key, c.Path)
			n, err := redo.Commit(ctx, c.Path, redo.CommitOptions{Options: o})
			if err != nil {
				return fmt.Errorf("disk %s: %w", d.Key, err)
			}
			path = n.Top
		}
	}
	return nil
}

// export puts redo logs over the disks, writes the directory and commits them.
func (s *vmsnap) export(ctx context.Context) error {
	j, err := (&snapshotFlags{stateDir: s.stateDir}).journal(s.provider)
	if err != nil {
		return err
	}
	so := s.sourceOptions()
	so.Snapshot = pipeline.SnapshotOptions{
		Provider: s.provider, Journal: j, BackupID: newID(), Detail: func(t string) { s.log.detail("%s", t) },
	}
	src, err := pipeline.OpenSource(ctx, s.config, so)
	if err != nil {
		return cli.Source(err)
	}
	for _, key := range s.taken {
		s.log.say("Added redo log: %s", key)
	}
	release := func(done bool) error {
		err := src.Release(ctx, done)
		if err != nil {
			s.log.warn(err.Error())
		}
		return err
	}
	defer release(false) //nolint:errcheck // it has been told; nothing is left to do behind a release
	o := pipeline.ExportOptions{
		Dir: s.dir, Format: vmdk.FormatSplit, KeepNames: true, Sums: true, Replace: true,
		IgnoreSpace: s.ignoreSpace, Counters: s.counters, Warn: s.log.warn,
	}
	if s.whole {
		o.Format = pipeline.FormatSame
	}
	for i := range src.Disks {
		s.log.say("Exporting disk: %s to %s", src.Disks[i].Record.Key, filepath.Join(s.dir, src.Disks[i].Record.File))
	}
	watch := s.log.a.console.Watch(s.counters)
	s.paths, err = pipeline.Export(ctx, src, o)
	watch.Stop()
	if errors.Is(err, stream.ErrTarget) {
		return err
	}
	if err != nil {
		return cli.Source(err)
	}
	if release(true) == nil {
		s.log.say("Committed redo logs")
	}
	return nil
}

// send sends the backup to the archive server.
func (s *vmsnap) send(ctx context.Context) error {
	to := s.archive(s.name)
	s.log.say("Sending to: %s:%s", s.server, to)
	if err := remote.Send(ctx, s.server, to, s.dir); err != nil {
		return &cli.Error{
			Code: cli.ExitSink, Err: fmt.Errorf("send to %s:%s: %w", s.server, to, err),
			Hint: "the backup in " + s.dir + " is complete",
		}
	}
	return nil
}

func (s *vmsnap) report() {
	took := time.Since(s.began)
	s.log.say("Backup complete: %s, %d disks, %d files, %s", s.dir, len(s.taken), len(s.paths), cli.Duration(took))
	if !s.log.a.console.JSON {
		return
	}
	e := cli.Event{
		"name": s.name, "path": s.dir, "paths": s.paths, "disks": s.taken, "need_bytes": s.need,
		"source_bytes": s.counters.Total.Load(), "zero_bytes": s.counters.Zero.Load(),
		"seconds": took.Seconds(), "warnings": s.log.a.console.Warnings(),
	}
	if s.free >= 0 {
		e["free_bytes"] = s.free
	}
	if s.server != "" {
		e["sent_to"] = s.server + ":" + s.archive(s.name)
	}
	s.log.a.console.Say("summary", e, "")
}
