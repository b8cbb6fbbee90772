// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/vmfs"
)

const longVMFSRecover = `Recover frees the slots and locks on a volume of VMFS-3 or VMFS-5 that hosts have left which
are gone, as vmkfstools -R did. It looks at the heartbeats twice, 20 seconds apart, and
refuses a volume that a host uses. Nothing else is written, so that it can be stopped and
run again; what is freed is told.

A host that has crashed may have left changes in its journal, which only a host can
replay: have one mount the volume. --drop-journals loses them.

  vmstream vmfs recover --dry-run volume.img
  vmstream vmfs recover --force /dev/sdb`

// vmfsRecover is what vmfs recover prints with --json. docs/scripting.md has it.
type vmfsRecover struct {
	Volume   string          `json:"volume"`
	DryRun   bool            `json:"dry_run"`
	Released []vmfs.Released `json:"released"`
}

func newVMFSRecover(a *app) *cobra.Command {
	var v vmfsWriteFlags
	var o vmfs.RecoverOptions
	c := &cobra.Command{
		Use: "recover [flags] VOLUME", Short: "Free what hosts have left locked that are gone",
		Long: longVMFSRecover + "\n\n" + exitCodes, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return runVMFSRecover(c.Context(), a, &v, o, args[0]) },
	}
	v.luns.add(c)
	f := c.Flags()
	f.StringVar(&v.volume, "volume", "", "label or UUID of the volume, if the devices have several")
	f.BoolVar(&v.force, "force", false, "write to block devices")
	f.BoolVar(&o.DropJournals, "drop-journals", false, "lose what hosts have left in their journals")
	f.BoolVarP(&o.DryRun, "dry-run", "n", false, "tell what would be freed, change nothing")
	return c
}

func runVMFSRecover(ctx context.Context, a *app, v *vmfsWriteFlags, o vmfs.RecoverOptions, spec string) error {
	names, _, hasPath := splitVMFS(spec)
	if hasPath {
		return cli.Usage(fmt.Errorf("%q: name a volume", spec))
	}
	t, err := openVMFSTarget(&v.luns, names, v.force, "force")
	if err != nil {
		return err
	}
	defer t.close()
	r := &vmfsRecover{Volume: spec, DryRun: o.DryRun, Released: []vmfs.Released{}}
	o.Volume = v.volume
	o.Report = func(l vmfs.Released) { r.Released = append(r.Released, l) }
	a.console.Detail("looking at the heartbeats again in %v", vmfs.BeatTime)
	if err := vmfs.Recover(ctx, t.devices, o); err != nil {
		return errors.Join(cli.Source(err), t.close())
	}
	if err := t.close(); err != nil {
		return err
	}
	return a.tell(r, r.print)
}

func (r *vmfsRecover) print(w io.Writer) error {
	verb := "freed"
	if r.DryRun {
		verb = "would free"
	}
	for _, l := range r.Released {
		if _, err := fmt.Fprintf(w, "%s %s of %s, left by host %s (%s at %d)\n", verb, l.What, cmp.Or(l.Name, "the host"), l.Host, l.Device, l.Offset); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%s %d slots and locks\n", verb, len(r.Released))
	return err
}
