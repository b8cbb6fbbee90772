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
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/vm/snapshot"
)

const longSnapshot = `Snapshot shows what backups have made to have disks that stand still, and ends
what a run has left that was killed, or that could not end it: a VM was running.

Backups note a snapshot in --state-dir before they make it.`

func newSnapshot(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "snapshot", Short: "List and end the snapshots of backups",
		Long: longSnapshot + "\n\n" + exitCodes, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newSnapshotList(a), newSnapshotReap(a))
	return c
}

// snapshotResult is what list and reap print with --json. docs/scripting.md has it.
type snapshotResult struct {
	ID         string  `json:"id"`
	Provider   string  `json:"provider"`
	Source     string  `json:"source"`
	BackupID   string  `json:"backup_id"`
	Phase      string  `json:"phase"`
	Created    string  `json:"created"`
	AgeSeconds float64 `json:"age_seconds"`
	Host       string  `json:"host"`
	PID        int     `json:"pid"`
	Alive      bool    `json:"alive"`
	Reaped     *bool   `json:"reaped,omitempty"`
	Error      string  `json:"error,omitempty"`
}

func describeSnapshot(l *snapshot.Listed) *snapshotResult {
	r := &snapshotResult{
		ID: l.ID, Provider: l.Provider, Source: l.Source, BackupID: l.BackupID, Phase: l.Phase,
		Created: l.Created.UTC().Format(time.RFC3339), AgeSeconds: time.Since(l.Created).Round(time.Second).Seconds(),
		Host: l.Host, PID: l.PID, Alive: l.Alive,
	}
	if l.Err != nil {
		r.Error = l.Err.Error()
	}
	return r
}

func newSnapshotList(a *app) *cobra.Command {
	dir := ""
	c := &cobra.Command{
		Use: "list [flags]", Short: "List the snapshots that backups have noted",
		Long: `List shows the snapshots that exist: what made them, of what, how far that has
come, and if the run that made them is there.` + "\n\n" + exitCodes, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runSnapshotList(a, dir) },
	}
	addStateDir(c, &dir)
	return c
}

// openJournal returns the journal if there is one, and what it has. A
// directory is not made to look into it.
func openJournal(dir string) (*snapshot.Journal, []snapshot.Listed, error) {
	if _, err := os.Stat(filepath.Join(dir, "snapshots")); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	j, err := snapshot.OpenJournal(dir)
	if err != nil {
		return nil, nil, err
	}
	l, err := j.List()
	return j, l, err
}

func runSnapshotList(a *app, dir string) error {
	_, found, err := openJournal(dir)
	if err != nil {
		return cli.Source(err)
	}
	if a.console.JSON {
		for i := range found {
			if err := a.printJSON(describeSnapshot(&found[i])); err != nil {
				return err
			}
		}
		return a.done()
	}
	if len(found) == 0 {
		return a.done()
	}
	err = a.printText(func(w io.Writer) error {
		t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		fmt.Fprint(t, "id\tprovider\tphase\tage\trun\tsource\n")
		for i := range found {
			l := &found[i]
			run := "gone"
			if l.Alive {
				run = fmt.Sprintf("pid %d", l.PID)
			}
			phase := dash(l.Phase)
			if l.Err != nil {
				phase = l.Err.Error()
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", l.ID, dash(l.Provider), cli.Clean(phase), cli.Duration(time.Since(l.Created)), run, dash(cli.Clean(l.Source)))
		}
		return t.Flush()
	})
	if err != nil {
		return err
	}
	return a.done()
}

func newSnapshotReap(a *app) *cobra.Command {
	dir, all := "", false
	c := &cobra.Command{
		Use: "reap [flags] [ID...]", Short: "End snapshots whose runs are gone",
		Long: `Reap undoes what runs that are gone have left: it commits redo logs and removes
snapshots of the host. Without an ID it takes all of them. It can be run at any
time; a run that is there is let be. What cannot be ended now, because a VM is
running, stays noted, and the exit code is 5.` + "\n\n" + exitCodes,
		RunE: func(c *cobra.Command, ids []string) error {
			if all && len(ids) > 0 {
				return cli.Usage(errors.New("either --all or IDs"))
			}
			return runSnapshotReap(c.Context(), a, dir, ids)
		},
	}
	addStateDir(c, &dir)
	c.Flags().BoolVar(&all, "all", false, "all of them, as without an ID")
	return c
}

func runSnapshotReap(ctx context.Context, a *app, dir string, ids []string) error {
	j, found, err := openJournal(dir)
	if err != nil {
		return cli.Source(err)
	}
	byID := map[string]*snapshot.Listed{}
	all := len(ids) == 0
	for i := range found {
		l := &found[i]
		byID[l.ID] = l
		if all && !l.Alive {
			ids = append(ids, l.ID)
		}
	}
	failed := 0
	for _, id := range ids {
		l := byID[id]
		if l == nil {
			return cli.Source(fmt.Errorf("snapshot %s: it is not noted in %s: %w", id, dir, fs.ErrNotExist))
		}
		rerr := snapshot.Reap(ctx, j, id, providers(a), snapshot.Voice{
			Warn: a.console.Warn, Detail: func(s string) { a.console.Detail("%s", s) },
		})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if rerr != nil {
			failed++
		}
		if err := a.tellReaped(l, rerr); err != nil {
			return err
		}
	}
	if failed > 0 {
		return cli.Source(fmt.Errorf("%d of %d snapshots could not be ended", failed, len(ids)))
	}
	return a.done()
}

func (a *app) tellReaped(l *snapshot.Listed, err error) error {
	r := describeSnapshot(l)
	ok := err == nil
	r.Reaped = &ok
	if err != nil {
		r.Error = err.Error()
	}
	switch {
	case a.console.JSON:
		return a.printJSON(r)
	case err != nil:
		a.console.Warn(err.Error())
		return nil
	case a.console.Quiet:
		return nil
	}
	return a.printText(func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "ended %s (%s of %s)\n", l.ID, l.Provider, cli.Clean(l.Source))
		return err
	})
}
