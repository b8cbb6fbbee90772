// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/vmdk"
)

const longEstimate = `Estimate tells how much of the disks and files of a VM, or of a disk alone, a backup
without a codec would store at most: what is allocated, not how much of that is
zeros. No data is read, nothing is changed, and a VM that is in use is taken as it is.
The headers of the stream come on top.

With --since it is what the links above the earlier backup have. A disk that has to be
read whole to find its changes counts with all it has.

  vmstream estimate web01.vmx
  vmstream estimate --json --since web01.tar web01.vmx | jq .stored_bytes`

// estimate is what estimate prints with --json. docs/scripting.md has it.
type estimate struct {
	Name          string `json:"name"`
	Disks         int    `json:"disks"`
	Files         int    `json:"files"`
	CapacityBytes int64  `json:"capacity_bytes"`
	StoredBytes   int64  `json:"stored_bytes"`
}

type estimateOptions struct {
	volumes      volumeFlags
	source       pipeline.SourceOptions
	sourceFormat string
	since        string
}

func newEstimate(a *app) *cobra.Command {
	o := &estimateOptions{}
	c := &cobra.Command{
		Use: "estimate [flags] VM|DISK", Short: "Tell how much a backup would store at most",
		Long: longEstimate + "\n\n" + exitCodes, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return runEstimate(c.Context(), a, o, args[0]) },
	}
	f := c.Flags()
	f.StringArrayVar(&o.source.Disks, "disk", nil, "count only the disk with this key, such as scsi0:0; may be repeated")
	f.StringVar(&o.source.Name, "name", "", "name of the VM in the stream")
	f.StringVar(&o.since, "since", "", "of an increment on the backup in this file, a stream or an index")
	f.BoolVar(&o.source.NoLogs, "no-logs", false, "leave the VM's log files out")
	f.BoolVar(&o.source.AllowOutside, "allow-outside", false, "let a VM have disks outside its directory and /vmfs/volumes, and descriptors name files outside theirs, and devices")
	f.BoolVar(&o.source.PadShort, "pad-short", false, "fill up flat files that are too short, and a last part of a sector, with zeros")
	f.BoolVar(&o.source.SkipFree, "skip-free", false, "of a backup that leaves out what the file systems on the disks do not use")
	f.BoolVar(&o.source.ReadUnmapped, "read-unmapped", false, "read also what thin LUNs say that holds nothing")
	addSourceFormat(c, &o.sourceFormat)
	o.volumes.add(c)
	return c
}

func runEstimate(ctx context.Context, a *app, o *estimateOptions, path string) error {
	if err := checkSourceFormat(o.sourceFormat); err != nil {
		return err
	}
	at, err := o.volumes.locate(a, path)
	if err != nil {
		return err
	}
	defer at.close()
	if o.since != "" && o.source.SkipFree {
		return cli.Usage(errors.New("--skip-free does not go with --since"))
	}
	o.source.Tree, o.source.Under = at.tree, at.under
	o.source.Format, o.source.Warn, o.source.AllowInUse = vmdk.SourceFormat(o.sourceFormat), a.console.Warn, true
	e, err := o.measure(ctx, a, at.paths[0])
	if err != nil {
		return cli.Source(err)
	}
	if a.console.JSON {
		err = a.printJSON(e)
	} else {
		err = a.printText(e.print)
	}
	if err != nil {
		return err
	}
	return a.done()
}

func (o *estimateOptions) measure(ctx context.Context, a *app, path string) (*estimate, error) {
	src, err := pipeline.OpenSource(ctx, path, o.source)
	if err != nil {
		return nil, err
	}
	defer src.Close() // only looked at
	if o.since != "" {
		if err := o.compare(ctx, a, src); err != nil {
			return nil, err
		}
	}
	e := &estimate{Name: src.Name, Disks: len(src.Disks), Files: len(src.Files)}
	for i := range src.Disks {
		e.CapacityBytes += src.Disks[i].Image.Size()
	}
	e.StoredBytes, err = src.StoredBytes()
	return e, err
}

// compare makes src that of an increment.
func (o *estimateOptions) compare(ctx context.Context, a *app, src *pipeline.Source) error {
	ix, err := a.parent(ctx, o.since)
	if err != nil {
		return err
	}
	if of := ix.Opening.VMName(); of != src.Name {
		return fmt.Errorf("backup %s in %s is of %s, this is %s: %w; if that is only a new name, say --name %s", ix.ID, o.since, of, src.Name, disk.ErrMismatch, of)
	}
	return src.Since(ix, pipeline.SinceOptions{TrackBytes: pipeline.TrackParent})
}

func (e *estimate) print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%s: a backup stores %s at most: %d disks of %s, %d other files\n",
		e.Name, cli.Bytes(e.StoredBytes), e.Disks, cli.Bytes(e.CapacityBytes), e.Files)
	return err
}
