// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
)

const longDiskMap = `Map prints the runs of a disk in ascending order: offset and length in bytes, and
whether there is data or it is known to be zero. No data is read. The lines cover
the whole disk once; they appear as the metadata is read, so that an error may
come behind some of them.

  vmstream disk map web01.vmdk | awk '$3 == "data" {n += $2} END {print n}'`

// diskRun is a line of disk map with --json. docs/scripting.md has it.
type diskRun struct {
	Offset int64  `json:"offset"`
	Length int64  `json:"length"`
	Kind   string `json:"kind"`
}

func newDiskMap(a *app) *cobra.Command {
	var d diskFlags
	c := &cobra.Command{
		Use: "map [flags] DISK", Short: "Print which parts of a disk hold data",
		Long: longDiskMap + "\n\n" + exitCodes, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return runDiskMap(c.Context(), a, &d, args[0]) },
	}
	d.add(c)
	return c
}

func runDiskMap(ctx context.Context, a *app, d *diskFlags, path string) error {
	im, err := d.open(a, path)
	if err != nil {
		return err
	}
	defer im.Close() // only read
	out := bufio.NewWriter(a.Out)
	print := func(r disk.Run) error {
		_, err := fmt.Fprintf(out, "%d\t%d\t%s\n", r.Offset, r.Length, r.Kind)
		return err
	}
	if a.console.JSON {
		e := json.NewEncoder(out)
		print = func(r disk.Run) error { return e.Encode(diskRun{r.Offset, r.Length, r.Kind.String()}) }
	}
	for r, err := range disk.Merge(im.Runs(0, im.Size())) {
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			_ = out.Flush() // what came before the trouble; err is what matters
			return cli.Source(err)
		}
		if err := print(r); err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return a.done()
}
