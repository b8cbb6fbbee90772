// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/integrate"
	"github.com/vmstream/vmstream/vm/snapshot"
)

// Bacula calls these by the scripts that integrate bacula writes. They are
// not for people, so no list has them; docs/bacula.md describes them.

const baculaHistory = "bacula"

func newBacula(a *app) []*cobra.Command {
	return []*cobra.Command{newBaculaBackup(a), newBaculaCheck(a), newBaculaRestore(a)}
}

func newBaculaBackup(a *app) *cobra.Command {
	var stateDir, job, level, scheduled, since string
	var id int64
	c := &cobra.Command{
		Use: "bacula-backup [flags] -- BACKUP-ARGUMENTS", Short: "Write the stream of a job of Bacula or Bareos", Hidden: true,
		Long: `Bacula-backup is the reader of a bpipe plugin: backup, with the level of the job.` + "\n\n" + exitCodes,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			h, err := integrate.OpenHistory(stateDir, baculaHistory, job)
			if err != nil {
				return cli.Usage(err)
			}
			if id < 1 {
				return cli.Usage(fmt.Errorf("--job-id %d: the number of the job", id))
			}
			j := integrate.Job{ID: id, Level: integrate.ParseLevel(level), Scheduled: integrate.JobTime(scheduled)}
			args = append([]string{"--index-out", h.IndexPath(id), "--state-dir", stateDir}, args...)
			return runBaculaBackup(c.Context(), a, h, j, integrate.SinceTime(since), args)
		},
	}
	f := c.Flags()
	addJobState(c, &stateDir)
	f.StringVar(&job, "job", "", "name of the job, whose history this becomes a part of")
	f.Int64Var(&id, "job-id", 0, "number of the job")
	f.StringVar(&level, "job-level", "", "Full, Differential or Incremental, or their first letter")
	f.StringVar(&scheduled, "job-name", "", "the job's unique name, NAME.2006-01-02_15.04.05_01")
	f.StringVar(&since, "since-time", "", "since when changes are asked for, as 2006-01-02_15.04.05")
	return c
}

func addJobState(c *cobra.Command, dir *string) {
	c.Flags().StringVar(dir, "state-dir", snapshot.DefaultStateDir, "where jobs and snapshots are noted")
}

func runBaculaBackup(ctx context.Context, a *app, h *integrate.History, j integrate.Job, since string, args []string) error {
	parent, err := h.Parent(j.Level, since)
	if err != nil {
		return err
	}
	if err := h.Save(j); err != nil {
		return err
	}
	out, err := a.streamOutput()
	if err != nil {
		return err
	}
	b := &increments{
		args: args, out: out, err: a.Err,
		told: func(s string) { a.console.Say("detail", cli.Event{"message": s}, "vmstream: %s", s) },
	}
	switch {
	case parent != nil:
		b.since, j.ParentID = h.IndexPath(parent.ID), parent.ID
	case j.Level != integrate.Full:
		b.told(fmt.Sprintf("job %d is %s, but none before it is known to be stored: this is a full backup", j.ID, j.Level))
	}
	code := b.run(ctx, a)
	if code != cli.ExitDone && code != cli.ExitWarnings {
		if err := h.Drop(j.ID); err != nil { // no script follows a job that was cancelled
			a.console.Say("detail", cli.Event{"message": err.Error()}, "vmstream: %v", err)
		}
		return told(code)
	}
	if j.Whole = true; b.isFull {
		j.ParentID = 0
	}
	if err := h.Save(j); err != nil {
		return err
	}
	return told(code)
}

func newBaculaCheck(a *app) *cobra.Command {
	var stateDir string
	c := &cobra.Command{
		Use: "bacula-check STATUS JOBID LEVEL JOB", Short: "Fail a job of Bacula or Bareos whose stream is not whole", Hidden: true,
		Long: `Bacula-check is run on the client after a job, as RunScript with
Command = "vmstream bacula-check '%e' %i %l %n". It fails, and the job with it, unless the
job has ended well and its stream was written to the end; and only then notes the
backup as one that increments may be made on.` + "\n\n" + exitCodes,
		Args: cobra.ExactArgs(4),
		RunE: func(_ *cobra.Command, args []string) error {
			h, err := integrate.OpenHistory(stateDir, baculaHistory, args[3])
			if err != nil {
				return cli.Usage(err)
			}
			id, err := strconv.ParseInt(args[1], 10, 64)
			if err != nil || id < 1 {
				return cli.Usage(fmt.Errorf("%q is no number of a job", args[1]))
			}
			return runBaculaCheck(a, h, args[0], id)
		},
	}
	addJobState(c, &stateDir)
	return c
}

// endedWell reports if a job's status says that what it had to store is stored.
// With warnings it is, too: a backup with exit code 3 is whole.
func endedWell(status string) bool {
	return status == "OK" || status == "OK -- with warnings"
}

func runBaculaCheck(a *app, h *integrate.History, status string, id int64) error {
	j, err := h.Load(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("job %d has written no stream: it is not backed up (its status is %s)", id, status)
	case err != nil:
		return err
	case !j.Whole:
		return errors.Join(fmt.Errorf("the stream of job %d is not whole: it is no backup (its status is %s)", id, status), h.Drop(id))
	case !endedWell(status):
		return errors.Join(fmt.Errorf("job %d has ended as %s: increments will not be made on it", id, status), h.Drop(id))
	}
	if err := h.Store(j); err != nil {
		return err
	}
	what := "full"
	if j.ParentID != 0 {
		what = fmt.Sprintf("an increment on job %d", j.ParentID)
	}
	a.console.Say("detail", cli.Event{"message": "stored"}, "vmstream: job %d is stored: %s", id, what)
	return nil
}
