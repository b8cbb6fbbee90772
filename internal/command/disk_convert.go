// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

const longDiskConvert = `Convert copies a disk with its whole chain to a new disk of another format, which
keeps adapter, geometry, UUID and the further entries of the disk data base. OUT
is a file, an existing block device or - for stdout, which takes raw and stream.
Holes are not read and zeros are not stored. Files appear under their names when
they are complete.

Formats: raw; flat (monolithicFlat); vmfs (the same for ESX); sparse
(monolithicSparse); split (twoGbMaxExtentSparse, files below 2 GiB); stream
(streamOptimized, as in an OVA).

  vmstream disk convert web01-000002.vmdk web01-copy.vmdk
  vmstream disk convert --format stream /dev/vg0/web01 - > web01.vmdk`

type convertOptions struct {
	disk     diskFlags
	pipeline pipeline.ConvertOptions
	format   string
	readAll  bool // also what thin LUNs say that holds nothing
}

func newDiskConvert(a *app) *cobra.Command {
	o := &convertOptions{}
	c := &cobra.Command{
		Use: "convert [flags] IN OUT", Short: "Copy a disk to one of another format",
		Long: longDiskConvert + "\n\n" + exitCodes, Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error { return runDiskConvert(c, a, o, args[0], args[1]) },
	}
	f := c.Flags()
	o.disk.add(c)
	f.StringVar(&o.format, "format", "", "format of OUT: "+strings.Join(convertFormats(), ", ")+" (if empty: sparse for .vmdk, else raw)")
	f.IntVar(&o.pipeline.Workers, "workers", 0, "parts of the disk worked on at a time, 1 MiB of memory each (0: one more than there are processors)")
	f.BoolVar(&o.pipeline.AssumeZeroed, "assume-zeroed", false, "the block device reads as zeros already: write data only")
	f.BoolVar(&o.readAll, "read-unmapped", false, "read also what thin LUNs say that holds nothing")
	f.BoolVar(&o.pipeline.Force, "force", false, "replace existing files")
	f.BoolVar(&o.pipeline.IgnoreSpace, "ignore-space", false, "begin even if there may be too little free space")
	complete(c, "format", convertFormats())
	return c
}

func convertFormats() []string {
	var names []string
	for _, f := range vmdk.Formats() {
		names = append(names, string(f))
	}
	return names
}

func (o *convertOptions) validate(out string) error {
	r := resources{workers: o.pipeline.Workers, memory: stream.DefaultMemoryBytes}
	switch {
	case o.format != "" && !slices.Contains(convertFormats(), o.format):
		return fmt.Errorf("--format %q: one of %v", o.format, convertFormats())
	case out == "-" && o.format != "" && o.format != string(vmdk.FormatRaw) && o.format != string(vmdk.FormatStream):
		return fmt.Errorf("stdout takes format raw or stream, not %s", o.format)
	case out == "":
		return errors.New("the name of OUT is empty")
	}
	return errors.Join(r.validate(), checkSourceFormat(o.disk.format))
}

func runDiskConvert(c *cobra.Command, a *app, o *convertOptions, in, out string) error {
	if err := o.validate(out); err != nil {
		return cli.Usage(err)
	}
	at, err := o.disk.volumes.locate(a, in)
	if err != nil {
		return err
	}
	defer at.close()
	p := o.pipeline
	p.To, p.Format, p.Counters = out, vmdk.Format(o.format), new(stream.Counters)
	p.Source = pipeline.SourceOptions{
		Tree: at.tree, Under: at.under, Format: vmdk.SourceFormat(o.disk.format), AllowOutside: o.disk.allowOutside, PadShort: o.disk.padShort, ReadUnmapped: o.readAll,
		Warn: a.console.Warn,
	}
	if out == "-" {
		w, err := a.streamOutput()
		if err != nil {
			return err
		}
		if writesItself(w, append(at.under, in)) {
			return cli.Usage(fmt.Errorf("%s: %w", in, pipeline.ErrSameFile))
		}
		p.Stdout = w
	}
	watch := a.console.Watch(p.Counters)
	done, err := pipeline.Convert(c.Context(), at.paths[0], p)
	took := watch.Stop()
	switch {
	case errors.Is(err, pipeline.ErrSameFile):
		return cli.Usage(err)
	case errors.Is(err, stream.ErrTarget):
		return err
	case err != nil:
		return cli.Source(err)
	}
	reportConvert(a, done, p.Counters, took)
	return a.done()
}

func reportConvert(a *app, done *pipeline.Converted, n *stream.Counters, took time.Duration) {
	a.console.Say("summary", cli.Event{
		"format": done.Format, "paths": done.Paths, "capacity_bytes": done.SizeBytes, "zero_bytes": n.Zero.Load(),
		"data_bytes": done.SizeBytes - n.Zero.Load(), "seconds": took.Seconds(), "warnings": a.console.Warnings(),
	}, "vmstream: converted to %s: %s, %.0f %% zero, in %s", done.Format, cli.Bytes(done.SizeBytes),
		cli.Percent(n.Zero.Load(), done.SizeBytes), cli.Duration(took))
}
