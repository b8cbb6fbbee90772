// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/redo"
)

// redoChain is what redo list prints of a disk with --json. docs/scripting.md
// has it.
type redoChain struct {
	Disk     string       `json:"disk,omitempty"`
	Top      string       `json:"top"`
	ESX2     bool         `json:"esx2"`
	Levels   []redoLevel  `json:"levels"` // the base first
	Branches []string     `json:"branches,omitempty"`
	Pending  *redoPending `json:"pending,omitempty"`
}

type redoLevel struct {
	Level         int      `json:"level"`
	Path          string   `json:"path"`
	Kind          string   `json:"kind"`
	CapacityBytes int64    `json:"capacity_bytes"`
	DataBytes     int64    `json:"data_bytes"`
	ZeroBytes     int64    `json:"zero_bytes"`
	ChangedShare  float64  `json:"changed_share"`
	CID           string   `json:"cid,omitempty"`
	ParentCID     string   `json:"parent_cid,omitempty"`
	Dirty         bool     `json:"dirty"`
	Files         []string `json:"files"`
	FileBytes     int64    `json:"file_bytes"`
	DiskBytes     int64    `json:"disk_bytes"`
}

type redoPending struct {
	Operation string `json:"operation"`
	Journal   string `json:"journal"`
	Path      string `json:"path"`
	Parent    string `json:"parent"`
}

func newRedoList(a *app) *cobra.Command {
	var f redoFlags
	var volumes volumeFlags
	c := &cobra.Command{
		Use: "list [flags] DISK|VMX", Short: "List the levels of a disk",
		Long: `List prints the levels of a disk, of every disk for a VMX, from the base up:
what they store and change of the disk, content ids, whether a level was not
closed by its last writer, and the space it takes. It also tells of a command
that was interrupted. Only tables are read.` + "\n\n" + exitCodes, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return runRedoList(c.Context(), a, &f, &volumes, args[0]) },
	}
	f.add(c)
	volumes.add(c)
	return c
}

func runRedoList(ctx context.Context, a *app, f *redoFlags, volumes *volumeFlags, path string) error {
	at, err := volumes.locate(a, path)
	if err != nil {
		return err
	}
	defer at.close()
	disks, err := f.findAll(a, at.tree, at.paths[0])
	if err != nil {
		return err
	}
	for _, d := range disks {
		c, err := redo.List(ctx, d.path, d.options)
		if err != nil {
			return cli.Source(err)
		}
		if c.Pending != nil {
			a.console.Warn(fmt.Sprintf("%s: a %s has not ended; run vmstream redo %[2]s again", c.Pending.Child, c.Pending.Operation))
		}
		r := describeRedo(d.key, c)
		if a.console.JSON {
			err = a.printJSON(r)
		} else {
			err = a.printText(r.print)
		}
		if err != nil {
			return err
		}
	}
	return a.done()
}

func describeRedo(key string, c *redo.Chain) *redoChain {
	r := &redoChain{Disk: key, Top: c.Path, ESX2: c.ESX2, Branches: c.Branches, Levels: []redoLevel{}}
	if p := c.Pending; p != nil {
		r.Pending = &redoPending{string(p.Operation), p.Journal, p.Child, p.Parent}
	}
	for i, l := range c.Levels {
		r.Levels = append(r.Levels, redoLevel{
			Level: i, Path: l.Path, Kind: l.Kind, CapacityBytes: l.CapacityBytes, DataBytes: l.DataBytes, ZeroBytes: l.ZeroBytes,
			ChangedShare: l.ChangedShare(), CID: contentIDText(l.CID), ParentCID: parentIDText(l.ParentCID),
			Dirty: l.Dirty, Files: l.Files, FileBytes: l.FileBytes, DiskBytes: l.DiskBytes,
		})
	}
	return r
}

func (r *redoChain) print(w io.Writer) error {
	if r.Disk != "" {
		fmt.Fprintf(w, "%s\n", r.Disk)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprint(t, "level\tkind\tstores\tof disk\tCID\tparent\tclean\ton disk\tfile\n")
	for _, l := range r.Levels {
		clean := "yes"
		if l.Dirty {
			clean = "no"
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%.1f %%\t%s\t%s\t%s\t%s\t%s\n", l.Level, l.Kind, cli.Bytes(l.DataBytes),
			100*l.ChangedShare, dash(l.CID), dash(l.ParentCID), clean, cli.Bytes(l.DiskBytes), l.Path)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, b := range r.Branches {
		fmt.Fprintf(w, "child of the last level: %s\n", b)
	}
	return nil
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
