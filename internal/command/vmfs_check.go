// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/vmfs"
)

const longVMFSCheck = `Check reads everything that a volume says of itself, but no content of files, and tells
what does not fit: addresses that lead nowhere, blocks that two files have, blocks that are
in use and said to be free or the other way round, counters, link counts, and the entries .
and .. of directories. Nothing is written, and nothing is repaired. On VMFS-6 it is not
public where the bits of free blocks are: only counters are compared there, and
differences are notes.

Locks that are held, locks that a host has left, and heartbeats in use are notes, too. If a
host writes to the volume meanwhile, what is told may be true of no moment: check a
snapshot of the LUN, or ask vmfs info --live first.

  vmstream vmfs check /dev/sdb

The exit code is 0 if there are no problems (there may be notes), and 4 if there are, or if
the volume is so damaged that it cannot be opened.`

// vmfsCheck is what vmfs check prints with --json. docs/scripting.md has it.
type vmfsCheck struct {
	Volume string `json:"volume"`
	vmfs.Summary
	Findings []vmfs.Problem `json:"findings"`
}

func newVMFSCheck(a *app) *cobra.Command {
	var v vmfsFlags
	c := &cobra.Command{
		Use: "check [flags] VOLUME", Short: "Check the structures of a volume",
		Long: longVMFSCheck + "\n\n" + exitCodes, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return runVMFSCheck(c.Context(), a, &v, args[0]) },
	}
	v.add(c)
	return c
}

func runVMFSCheck(ctx context.Context, a *app, v *vmfsFlags, spec string) error {
	f, _, err := v.open(spec)
	if errors.Is(err, disk.ErrCorrupt) || errors.Is(err, disk.ErrTruncated) || errors.Is(err, disk.ErrMismatch) {
		return &cli.Error{Code: cli.ExitDamage, Err: err}
	}
	if err != nil {
		return err
	}
	defer f.close()
	r := vmfsCheck{Volume: f.Header().Label, Findings: []vmfs.Problem{}}
	// Check bounds how many it reports.
	if r.Summary, err = f.Check(ctx, func(p vmfs.Problem) { r.Findings = append(r.Findings, p) }); err != nil {
		return err
	}
	if a.console.JSON {
		err = a.printJSON(r)
	} else {
		err = a.printText(r.print)
	}
	if err != nil {
		return err
	}
	if r.Problems > 0 {
		return &cli.Error{Code: cli.ExitDamage, Err: fmt.Errorf("%s: %d problems", spec, r.Problems)}
	}
	return a.done()
}

func (r *vmfsCheck) print(w io.Writer) error {
	for _, p := range r.Findings {
		word := "problem"
		if p.Note {
			word = "note"
		}
		fmt.Fprintf(w, "%s: %s\n", word, cli.Clean(p.String()))
	}
	if told := len(r.Findings); told < r.Problems+r.Notes {
		fmt.Fprintf(w, "... and %d more\n", r.Problems+r.Notes-told)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "table\ttotal\tused\tfree\tlost\tunallocated\tshared\t")
	for _, s := range r.Tables {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t\n", s.Name, s.Total, s.Used, s.Free, s.Lost, s.Unallocated, s.Shared)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "%s: %d directories, %d files, %d symbolic links, %d raw device mappings, %d system files, %d not read\n",
		cli.Clean(cmp.Or(r.Volume, "volume without a label")), r.Directories, r.Files, r.Symlinks, r.Mappings, r.System, r.Unread)
	if !r.Bitmaps {
		fmt.Fprintln(w, "the bitmaps of VMFS-6 are not public, and were not checked")
	}
	_, err := fmt.Fprintf(w, "%d problems, %d notes\n", r.Problems, r.Notes)
	return err
}
