// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/redo"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
	"github.com/vmstream/vmstream/vmfs"
)

const longDiskExtend = `Extend makes a disk larger; what is added reads as zeros, and partitions and file systems
on it stay as they are. SIZE is the new capacity, or +SIZE what is added. The disk has to be
powered off, without redo logs and snapshots: raw, flat (also of ESX), split, which gets
more files, or monolithic sparse, which is written anew and needs the space for that. On a
VMFS volume, which no host may use then, a thick disk gets blocks that are to be zeroed when
they are written to.

A crash leaves the disk as it was or as it is to be. What is a backup's parent stays one:
the next increment on it is refused, since the capacity has changed.

  vmstream disk extend web01.vmdk 20G
  vmstream disk extend --disk scsi0:1 web01.vmx +5G
  vmstream disk extend vmfs:/dev/sdb!/web01/web01.vmdk 20G --allow-device`

// diskExtended is what disk extend prints with --json. docs/scripting.md has it.
type diskExtended struct {
	Path          string `json:"path"`
	OldBytes      int64  `json:"old_bytes"`
	CapacityBytes int64  `json:"capacity_bytes"`
	Rewritten     bool   `json:"rewritten"`
	DryRun        bool   `json:"dry_run"`
}

type diskExtend struct {
	redoFlags
	volumes     volumeFlags
	allowDevice bool
	allowFlag   string // that says so, "" for --allow-device
	dryRun      bool
}

func newDiskExtend(a *app) *cobra.Command {
	var o diskExtend
	c := &cobra.Command{
		Use: "extend [flags] DISK|VMX SIZE|+SIZE", Short: "Make a disk larger",
		Long: longDiskExtend + "\n\n" + exitCodes, Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error { return o.run(c.Context(), a, args[0], args[1]) },
	}
	o.add(c)
	o.addInUse(c)
	o.volumes.addVolumes(c)
	c.Flags().BoolVar(&o.allowDevice, "allow-device", false, "write to a volume on block devices, too: no host uses it")
	c.Flags().BoolVarP(&o.dryRun, "dry-run", "n", false, "check everything, change nothing")
	return c
}

func (o *diskExtend) run(ctx context.Context, a *app, path, size string) error {
	more, relative := strings.CutPrefix(size, "+")
	var n cli.Size
	if err := n.Set(more); err != nil || n <= 0 || n > disk.MaxSize {
		return cli.Usage(fmt.Errorf("%q is no capacity: write it like 20G or +5G, up to 64T", size))
	}
	l, err := o.volumes.locate(a, path)
	if err != nil {
		return err
	}
	defer l.close()
	if l.tree == nil {
		return o.extend(ctx, a, nil, path, int64(n), relative)
	}
	if len(l.volumes) != 1 {
		return cli.Usage(errors.New("name the volume alone that has the disk"))
	}
	v := vmfsWriteFlags{luns: o.volumes.luns, force: o.allowDevice, flag: cmp.Or(o.allowFlag, "allow-device")}
	return v.change(l.under, func(w *vmfs.Writer) error {
		t, err := vmfs.NewTree([]*vmfs.FS{w.FS()}, nil)
		if err != nil {
			return err
		}
		return o.extend(ctx, a, &pipeline.VolumeFiles{W: w, Tree: t}, l.paths[0], int64(n), relative)
	})
}

// extend extends a disk that is a file of the operating system, or one of a volume.
func (o *diskExtend) extend(ctx context.Context, a *app, volume *pipeline.VolumeFiles, path string, n int64, relative bool) error {
	var tree disk.Tree
	if volume != nil {
		tree = volume.Tree
	}
	d, err := o.find(a, tree, path)
	if err != nil {
		return err
	}
	x := redo.ExtendOptions{Options: d.options, SizeBytes: n, DryRun: o.dryRun}
	if volume != nil {
		x.Files = volume
	}
	if relative {
		now, err := capacityOf(d)
		if err != nil {
			return cli.Source(err)
		}
		x.SizeBytes += now
	}
	counters := new(stream.Counters)
	watch := a.console.Watch(counters)
	if volume == nil {
		x.Rewrite = func(ctx context.Context, path string, sizeBytes int64, g vmdk.Geometry) error {
			return pipeline.Rewrite(ctx, path, sizeBytes, g, counters)
		}
	}
	e, err := redo.Extend(ctx, d.path, x)
	watch.Stop()
	if err != nil {
		return cli.Source(err)
	}
	r := &diskExtended{Path: e.Path, OldBytes: e.OldBytes, CapacityBytes: e.NewBytes, Rewritten: e.Rewritten, DryRun: o.dryRun}
	return a.tell(r, func(w io.Writer) error {
		verb := "extended"
		if o.dryRun {
			verb = "would extend"
		}
		_, err := fmt.Fprintf(w, "%s %s from %d to %d bytes (%s)\n", verb, e.Path, e.OldBytes, e.NewBytes, cli.Bytes(e.NewBytes))
		return err
	})
}

// capacityOf opens a disk for its capacity.
func capacityOf(d *redoDisk) (int64, error) {
	im, err := vmdk.Open(d.path, vmdk.Options{Tree: d.options.Tree, Format: d.options.Format, Role: d.options.Role, AllowOutside: d.options.AllowOutside})
	if err != nil {
		return 0, err
	}
	return im.Size(), im.Close()
}
