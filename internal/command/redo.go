// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/redo"
)

const longRedo = `Redo adds redo logs to disks, lists them, commits and discards them, while the VM
is powered off. DISK is any level of a disk, VMX a configuration, whose top level
changes with it. Raw disks of ESX 2.x get X.REDO and X.REDO.REDO, disks with a
descriptor get numbered deltas.

A crash at any point leaves the disk with the right content; the same command
again carries on what was interrupted.`

func newRedo(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "redo", Short: "Add, list, commit and discard redo logs",
		Long: longRedo + "\n\n" + exitCodes, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newRedoAdd(a), newRedoList(a), newRedoCommit(a), newRedoDiscard(a))
	return c
}

// redoFlags say what disk is meant and how it is opened.
type redoFlags struct {
	key          string
	format       string
	allowOutside bool
	allowInUse   bool
}

func (r *redoFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&r.key, "disk", "", "the disk of the VM, such as scsi0:0 (needed if it has several)")
	r.addSource(c)
}

func (r *redoFlags) addSource(c *cobra.Command) {
	addSourceFormat(c, &r.format)
	c.Flags().BoolVar(&r.allowOutside, "allow-outside", false, "let descriptors name files outside their directory")
}

func (r *redoFlags) addInUse(c *cobra.Command) {
	c.Flags().BoolVar(&r.allowInUse, "allow-in-use", false, "take locks and open files for leftovers: nobody uses the disk")
}

// redoResult is what redo add, commit and discard print with --json.
// docs/scripting.md has it.
type redoResult struct {
	Operation string   `json:"operation"`
	Path      string   `json:"path"`   // the level that came or went
	Parent    string   `json:"parent"` // the level below it
	Top       string   `json:"top"`    // of the disk afterwards
	Level     int      `json:"level,omitempty"`
	Files     []string `json:"files,omitempty"`

	Runs      *int64 `json:"runs,omitempty"` // of a commit, as the other numbers
	DataBytes *int64 `json:"data_bytes,omitempty"`
	ZeroBytes *int64 `json:"zero_bytes,omitempty"`
	NeedBytes *int64 `json:"need_bytes,omitempty"`
	FreeBytes *int64 `json:"free_bytes,omitempty"`

	Resumed bool `json:"resumed"`
	DryRun  bool `json:"dry_run"`
}

// tell prints a result for programs or lines for people.
func (a *app) tell(v any, text func(io.Writer) error) error {
	var err error
	if a.console.JSON {
		err = a.printJSON(v)
	} else if !a.console.Quiet {
		err = a.printText(text)
	}
	if err != nil {
		return err
	}
	return a.done()
}

func newRedoAdd(a *app) *cobra.Command {
	var f redoFlags
	c := &cobra.Command{
		Use: "add [flags] DISK|VMX", Short: "Put a new redo log over a disk",
		Long: `Add puts a new, empty redo log over the top of a disk. What is below does not
change any more: it can be copied at leisure. A configuration is made to name the
new top, unless it is of ESX 2.x, where names say it.` + "\n\n" + exitCodes, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return runRedoAdd(c.Context(), a, &f, args[0]) },
	}
	f.add(c)
	f.addInUse(c)
	return c
}

func runRedoAdd(ctx context.Context, a *app, f *redoFlags, path string) error {
	d, err := f.find(a, nil, path)
	if err != nil {
		return err
	}
	added, err := redo.Add(ctx, d.path, redo.AddOptions{Options: d.options, Mode: d.mode})
	if err != nil {
		return cli.Source(err)
	}
	r := &redoResult{Operation: string(redo.OpAdd), Path: added.Path, Parent: added.Parent, Top: added.Path, Level: added.Level, Files: added.Files}
	return a.tell(r, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "added %s, level %d, over %s\n", added.Path, added.Level, filepath.Base(added.Parent))
		return err
	})
}

// mergeFlags are those of commit and discard.
type mergeFlags struct {
	redoFlags
	level  int
	dryRun bool
}

func (m *mergeFlags) add(c *cobra.Command, what string) {
	m.redoFlags.add(c)
	m.addInUse(c)
	c.Flags().IntVar(&m.level, "level", 0, what)
	c.Flags().BoolVarP(&m.dryRun, "dry-run", "n", false, "check everything, tell what would be done, change nothing")
	// VMSTREAM_LEVEL is about codecs.
	c.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		given := c.Flags().Changed("level")
		err := fromEnvironment(c.Flags())
		if !given {
			m.level = 0
		}
		return err
	}
}

func (m *mergeFlags) validate() error {
	if m.level < 0 {
		return cli.Usage(fmt.Errorf("--level %d: levels are counted from the base, which is 0", m.level))
	}
	return nil
}

func newRedoCommit(a *app) *cobra.Command {
	var m mergeFlags
	c := &cobra.Command{
		Use: "commit [flags] DISK|VMX", Short: "Merge a redo log into what is below it",
		Long: `Commit merges a level into the one below it and removes it: the level that DISK
names, or the top if that is the base or a VMX. With --level it is another one;
levels above it stay. The disk has the same content afterwards.

  vmstream redo commit --dry-run web01.vmx` + "\n\n" + exitCodes, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return runRedoCommit(c.Context(), a, &m, args[0]) },
	}
	m.add(c, "merge this level into the one below it (0: the one named, or the top)")
	return c
}

func runRedoCommit(ctx context.Context, a *app, m *mergeFlags, path string) error {
	if err := m.validate(); err != nil {
		return err
	}
	d, err := m.find(a, nil, path)
	if err != nil {
		return err
	}
	n, err := redo.Commit(ctx, d.path, redo.CommitOptions{Options: d.options, Level: m.level, DryRun: m.dryRun})
	if err != nil {
		return cli.Source(err)
	}
	r := &redoResult{
		Operation: string(redo.OpCommit), Path: n.Child, Parent: n.Parent, Top: n.Top, Level: n.Level,
		Runs: &n.Runs, DataBytes: &n.DataBytes, ZeroBytes: &n.ZeroBytes, NeedBytes: &n.NeedBytes,
		Resumed: n.Resumed, DryRun: m.dryRun,
	}
	if n.FreeBytes >= 0 {
		r.FreeBytes = &n.FreeBytes
	}
	return a.tell(r, func(w io.Writer) error { return printCommit(w, n, m.dryRun) })
}

func printCommit(w io.Writer, n *redo.Committed, dry bool) error {
	verb := "committed"
	switch {
	case dry:
		verb = "would commit"
	case n.Resumed:
		verb = "ended an interrupted commit of"
	}
	_, err := fmt.Fprintf(w, "%s %s into %s: %s of data and %s of zeros in %d pieces; the top is %s\n",
		verb, n.Child, filepath.Base(n.Parent), cli.Bytes(n.DataBytes), cli.Bytes(n.ZeroBytes), n.Runs, filepath.Base(n.Top))
	if err == nil && dry {
		free := "unknown"
		if n.FreeBytes >= 0 {
			free = cli.Bytes(n.FreeBytes)
		}
		_, err = fmt.Fprintf(w, "the files below may grow by %s; free: %s\n", cli.Bytes(n.NeedBytes), free)
	}
	return err
}

func newRedoDiscard(a *app) *cobra.Command {
	var m mergeFlags
	c := &cobra.Command{
		Use: "discard [flags] DISK|VMX", Short: "Drop the top redo log with what it stores",
		Long: `Discard removes the top level of a disk: the disk is what it was when that level
was added. A level that another depends on is refused.` + "\n\n" + exitCodes, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return runRedoDiscard(c.Context(), a, &m, args[0]) },
	}
	m.add(c, "discard only if this level is the top")
	return c
}

func runRedoDiscard(ctx context.Context, a *app, m *mergeFlags, path string) error {
	if err := m.validate(); err != nil {
		return err
	}
	d, err := m.find(a, nil, path)
	if err != nil {
		return err
	}
	n, err := redo.Discard(ctx, d.path, redo.DiscardOptions{Options: d.options, Level: m.level, DryRun: m.dryRun})
	if err != nil {
		return cli.Source(err)
	}
	r := &redoResult{Operation: string(redo.OpDiscard), Path: n.Path, Parent: n.Top, Top: n.Top, Files: n.Files, Resumed: n.Resumed, DryRun: m.dryRun}
	return a.tell(r, func(w io.Writer) error {
		verb := "discarded"
		if m.dryRun {
			verb = "would discard"
		}
		_, err := fmt.Fprintf(w, "%s %s; the top is %s\n", verb, n.Path, filepath.Base(n.Top))
		return err
	})
}

// errSeveralDisks is wrong usage: the VM has more than one disk.
var errSeveralDisks = errors.New("the VM has several disks; choose one with --disk")
