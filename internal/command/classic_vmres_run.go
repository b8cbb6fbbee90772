// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/internal/remote"
	"github.com/vmstream/vmstream/internal/sums"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vmdk"
)

// vmres is a run.
type vmres struct {
	*vmresOptions
	a   *app
	log *classicLog

	began    time.Time
	counters *stream.Counters
	made     string   // name of the VM
	paths    []string // of what was made
}

func runVmres(ctx context.Context, a *app, o *vmresOptions) error {
	r := &vmres{vmresOptions: o, a: a, log: o.newLog(a, "vmres"), began: time.Now(), counters: new(stream.Counters)}
	defer r.log.close()
	return r.log.fail(r.run(ctx))
}

func (r *vmres) run(ctx context.Context) error {
	if r.server != "" {
		dir, remove, err := r.fetch(ctx)
		defer remove()
		if err != nil {
			return err
		}
		r.backup = dir
	}
	if err := r.restore(ctx); err != nil {
		return err
	}
	if r.register != "" {
		r.registerVM(ctx)
	}
	r.report()
	return nil
}

// fetch gets the backup from the server, beside the place that it goes to.
func (r *vmres) fetch(ctx context.Context) (dir string, remove func(), err error) {
	remove = func() {}
	if err := os.MkdirAll(r.target, 0o777); err != nil {
		return "", remove, err
	}
	if dir, err = os.MkdirTemp(r.target, ".vmstream-restore-*"); err != nil {
		return "", remove, err
	}
	remove = func() { _ = os.RemoveAll(dir) } // what is left is visibly no VM
	r.log.say("Fetching from: %s:%s", r.server, r.backup)
	err = remote.Fetch(ctx, r.server, r.backup, dir)
	if err != nil {
		err = fmt.Errorf("fetch from %s:%s: %w", r.server, r.backup, err)
		if ctx.Err() == nil {
			err = cli.Source(err)
		}
	}
	return dir, remove, err
}

func (r *vmres) restore(ctx context.Context) error {
	if r.backup == "-" {
		return r.stream(ctx)
	}
	st, err := os.Stat(r.backup)
	if err != nil {
		return cli.Source(err)
	}
	ext := strings.ToLower(filepath.Ext(r.backup))
	switch {
	case st.IsDir():
		return r.directory(ctx, r.backup)
	case r.config == "" && (ext == ".vmx" || ext == ".cfg"):
		r.config = filepath.Base(r.backup)
		return r.directory(ctx, filepath.Dir(r.backup))
	}
	return r.stream(ctx)
}

// stream restores a stream of vmstream backup.
func (r *vmres) stream(ctx context.Context) error {
	in, closeInput, err := r.a.streamInput(r.backup)
	if err != nil {
		return err
	}
	defer closeInput() //nolint:errcheck // only read
	o := pipeline.RestoreOptions{
		Dir: r.target, Format: vmdk.Format(r.format), Name: r.name, Force: r.force, IgnoreSpace: r.ignoreSpace, Warn: r.log.warn,
		Read: stream.ReadOptions{MemoryBytes: stream.DefaultMemoryBytes, Counters: r.counters},
	}
	if r.format == formatProduct {
		o.Format = pipeline.FormatSame // a stream says what the disks were
	}
	watch := r.a.console.Watch(r.counters)
	done, err := pipeline.RestoreChain(ctx, []io.Reader{in}, o)
	watch.Stop()
	if err != nil {
		return cli.Stream(err)
	}
	for _, w := range done.Result.Warnings {
		r.log.warn("when the backup was made: " + w)
	}
	r.made, r.paths = done.Result.Opening.VMName(), done.Paths
	if r.name != "" {
		r.made = r.name
	}
	return nil
}

// directory restores what vmsnap has made.
func (r *vmres) directory(ctx context.Context, dir string) error {
	config, err := r.configuration(dir)
	if err != nil {
		return cli.Source(err)
	}
	checked, err := sums.Check(ctx, dir)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return cli.Source(cli.Stream(err))
	case checked:
		r.log.say("Checked: %s", filepath.Join(dir, sums.Name))
	default:
		r.log.detail("%s: no %s to check it by", dir, sums.Name)
	}
	o := pipeline.SourceOptions{Copy: vm.CopyFound, Warn: r.log.warn, Name: r.name}
	switch {
	case r.whole || r.sourceFormat == string(vmdk.SourceRaw):
		o.Copy = vm.CopyRaw
	case r.sourceFormat == string(vmdk.SourceVMDK):
		o.Copy = vm.CopyVMDK
	}
	src, err := pipeline.OpenSource(ctx, config, o)
	switch {
	case errors.Is(err, disk.ErrUnsupported):
		return cli.Source(err)
	case err != nil:
		return cli.Source(cli.Stream(err)) // what is damaged is a backup
	}
	defer src.Close() //nolint:errcheck // only read
	return r.export(ctx, src, dir)
}

// configuration returns the path of the configuration in a backup.
func (r *vmres) configuration(dir string) (string, error) {
	if r.config != "" {
		path := filepath.Join(dir, r.config)
		_, err := os.Stat(path)
		return path, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var found []string
	for _, e := range entries {
		switch strings.ToLower(filepath.Ext(e.Name())) {
		case ".vmx", ".cfg":
			found = append(found, e.Name())
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%s: there is no configuration in this directory, a .vmx or .cfg file: %w", dir, fs.ErrNotExist)
	case 1:
		return filepath.Join(dir, found[0]), nil
	}
	return "", cli.Usage(fmt.Errorf("%s: there are several configurations; choose one with -c: %s", dir, strings.Join(found, ", ")))
}

func (r *vmres) export(ctx context.Context, src *pipeline.Source, from string) error {
	to := filepath.Join(r.target, src.Name)
	st, err := os.Stat(from)
	if err != nil {
		return cli.Source(err)
	}
	if there, err := os.Stat(to); err == nil && os.SameFile(st, there) {
		return cli.Usage(fmt.Errorf("%s is the backup itself; choose another place or name", to))
	}
	r.log.say("Virtual machine: %s", src.Name)
	for i := range src.Disks {
		d := &src.Disks[i]
		r.log.say("Disk found: %s %s (%s)", d.Record.Key, d.Record.Source.Path, cli.Bytes(d.Image.Size()))
	}
	watch := r.a.console.Watch(r.counters)
	r.paths, err = pipeline.Export(ctx, src, pipeline.ExportOptions{
		Dir: to, Format: vmdk.Format(r.format), Name: r.name, Force: r.force, IgnoreSpace: r.ignoreSpace,
		Counters: r.counters, Warn: r.log.warn,
	})
	watch.Stop()
	r.made = src.Name
	switch {
	case err == nil || errors.Is(err, stream.ErrTarget):
		return err
	case errors.Is(err, disk.ErrInUse): // the backup has changed meanwhile
		return cli.Source(err)
	}
	return cli.Source(cli.Stream(err))
}

func (r *vmres) report() {
	dir := r.target
	if len(r.paths) > 0 {
		dir = filepath.Dir(r.paths[0])
	}
	took := time.Since(r.began)
	r.log.say("Restore complete: %s, %d files, %s", dir, len(r.paths), cli.Duration(took))
	if r.a.console.JSON {
		r.a.console.Say("summary", cli.Event{
			"name": r.made, "path": dir, "paths": r.paths, "restored_bytes": r.counters.Done.Load(),
			"seconds": took.Seconds(), "warnings": r.a.console.Warnings(),
		}, "")
	}
}
