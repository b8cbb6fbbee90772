// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

type restoreOptions struct {
	volume    volumeTarget
	pipeline  pipeline.RestoreOptions
	format    string
	from      []string
	resources resources
}

const longRestore = `Restore reads a stream from stdin, in one pass and to its end, and re-creates the
VM's directory in the directory that -C names, or takes one disk to a file, a
block device or, with --to -, to stdout as a raw disk.

Files appear under their names only when the whole stream has been verified. What
has gone to a device or a pipe by then cannot be taken back: exit code 4 says that
it is not to be used.

-C vmfs:VOLUME!/DIR writes into a volume of VMFS-3 or VMFS-5 that no host uses, as
vmkfstools -i does: disks become thin, zeroedthick or eagerzeroedthick.

With --disk the other disks of a stream in a file, or in a sink that reads at any
place, are passed over: nothing is read of them, and nothing checked.

  vmstream restore -C /vmfs/volumes/ds1 < web01.tar
  vmstream restore -C vmfs:lun.img!/ < web01.tar
  vmstream restore --disk scsi0:0 --to /dev/vg0/web01 < web01.tar

A full backup and the increments on it, oldest first, restore the VM as the last one
has it. They come one behind the other from stdin, or side by side, each from its own
file or pipe. The latter writes every disk once, in order, which formats that cannot
be written over need to spare a copy, and --to - needs in any case:

  cat full.tar monday.tar tuesday.tar | vmstream restore -C /vms
  vmstream restore -C /vms --from full.tar --from monday.tar --from tuesday.tar`

func newRestore(a *app) *cobra.Command {
	o := &restoreOptions{}
	c := &cobra.Command{
		Use: "restore [flags]", Short: "Restore a VM or a disk from a stream on stdin",
		Long: longRestore + "\n\n" + exitCodes, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runRestore(c, a, o) },
	}
	f := c.Flags()
	f.StringVarP(&o.pipeline.Dir, "directory", "C", "", "make the VM's directory in here")
	f.StringVar(&o.format, "format", string(pipeline.FormatSame), "make disks into: same, raw, flat, vmfs, sparse, split, stream")
	f.StringArrayVar(&o.pipeline.Disks, "disk", nil, "restore only the disk with this key, such as scsi0:0; may be repeated with -C")
	f.StringVar(&o.pipeline.To, "to", "", "restore one disk to this file or block device, or - for stdout")
	f.BoolVar(&o.pipeline.AssumeZeroed, "assume-zeroed", false, "the block device reads as zeros already: write data only")
	f.BoolVar(&o.pipeline.Force, "force", false, "replace existing files")
	f.BoolVar(&o.pipeline.IgnoreSpace, "ignore-space", false, "begin even if there may be too little free space")
	f.StringArrayVar(&o.from, "from", nil, "read the stream from this file or target instead of stdin; repeated for a full backup and its increments, in order")
	o.resources.add(c)
	o.volume.add(c)
	complete(c, "format", restoreFormats())
	return c
}

func restoreFormats() []string {
	names := []string{string(pipeline.FormatSame)}
	for _, f := range vmdk.Formats() {
		names = append(names, string(f))
	}
	return names
}

func (o *restoreOptions) validate() error {
	switch {
	case (o.pipeline.Dir == "") == (o.pipeline.To == ""):
		return errors.New("say where to restore to: either -C DIR or --to PATH")
	case !slices.Contains(restoreFormats(), o.format):
		return fmt.Errorf("--format %q: one of %v", o.format, restoreFormats())
	case o.pipeline.To != "" && len(o.pipeline.Disks) > 1:
		return errors.New("--to takes one --disk")
	case o.pipeline.To == "-" && o.format != string(pipeline.FormatSame) && o.format != string(vmdk.FormatRaw):
		return fmt.Errorf("--to - writes a raw disk, not %s", o.format)
	}
	return errors.Join(o.volume.validate(o), o.resources.validate())
}

func runRestore(c *cobra.Command, a *app, o *restoreOptions) error {
	if err := o.validate(); err != nil {
		return cli.Usage(err)
	}
	p := o.pipeline
	p.Format, p.Warn = vmdk.Format(o.format), a.console.Warn
	if p.To == "-" {
		out, err := a.streamOutput()
		if err != nil {
			return err
		}
		p.Stdout = out
	}
	target, err := o.volume.open(&p)
	if err != nil {
		return err
	}
	defer target.close() // after an error; what is complete has been closed
	ins, closeInputs, err := a.streamInputs(c.Context(), o.from)
	if err != nil {
		return err
	}
	defer closeInputs() // only read
	counters := new(stream.Counters)
	p.Read = stream.ReadOptions{Workers: o.resources.workers, MemoryBytes: int64(o.resources.memory), Counters: counters}
	watch := a.console.Watch(counters)
	done, err := pipeline.RestoreChain(c.Context(), ins, p)
	if err == nil {
		err = target.finish()
	}
	took := watch.Stop()
	if err != nil {
		err = cli.Stream(err)
		if p.Dir == "" && p.To != "" && cli.Code(err) == cli.ExitDamage {
			var e *cli.Error
			if errors.As(err, &e) {
				e.Hint = "what has been written to " + p.To + " is not to be used"
			}
		}
		return err
	}
	res := done.Result
	for _, w := range res.Warnings {
		a.console.Warn("when the backup was made: " + w)
	}
	for _, path := range done.Paths {
		a.console.Detail("restored %s", path)
	}
	a.console.Say("summary", cli.Event{
		"id": res.Opening.ID, "name": res.Opening.Name, "created": res.Opening.Created, "paths": done.Paths,
		"streams": done.Streams, "restored_bytes": counters.Done.Load(), "stream_bytes": res.OutBytes, "seconds": took.Seconds(), "warnings": a.console.Warnings(),
	}, "vmstream: restored %s: %s from a stream of %s in %s, all digests right", res.Opening.Name,
		cli.Bytes(counters.Done.Load()), cli.Bytes(res.OutBytes), cli.Duration(took))
	return a.done()
}
