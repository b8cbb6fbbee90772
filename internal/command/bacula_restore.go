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
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/integrate"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

// How a restore job treats what is there already.
const (
	replaceAlways  = "always"
	replaceIfNewer = "ifnewer" // if the backup is newer
	replaceIfOlder = "ifolder"
	replaceNever   = "never"
)

// replaceWords are what Bacula's plugin and Bareos's environment say.
var replaceWords = map[string]string{
	"a": replaceAlways, "w": replaceIfNewer, "o": replaceIfOlder, "n": replaceNever,
	replaceAlways: replaceAlways, replaceIfNewer: replaceIfNewer, replaceIfOlder: replaceIfOlder, replaceNever: replaceNever,
	"": replaceNever,
}

func newBaculaRestore(a *app) *cobra.Command {
	var where, dir, replace, format, level string
	c := &cobra.Command{
		Use: "bacula-restore [flags]", Short: "Restore a stream that Bacula or Bareos hands out", Hidden: true,
		Long: `Bacula-restore is the writer of a bpipe plugin. It reads a stream from stdin to its end
and restores it; an increment over what the call before it has restored.` + "\n\n" + exitCodes,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			rule, ok := replaceWords[replace]
			if !ok {
				return cli.Usage(fmt.Errorf("--replace %q: a, w, o or n", replace))
			}
			if !slices.Contains(restoreFormats(), format) {
				return cli.Usage(fmt.Errorf("--format %q: one of %v", format, restoreFormats()))
			}
			if where == "" || where == "/" {
				where = dir
			}
			if !filepath.IsAbs(where) {
				return cli.Usage(fmt.Errorf("%q is no place to restore to: give the job an absolute Where, or -C DIR", where))
			}
			return runNextRestore(c.Context(), a, pipeline.RestoreOptions{
				Dir: where, Format: vmdk.Format(format), Force: rule == replaceAlways, ForceFor: forceFor(rule),
				Follows: integrate.ParseLevel(level) != integrate.Full,
			})
		},
	}
	f := c.Flags()
	f.StringVar(&where, "where", "", "where the job restores to")
	f.StringVarP(&dir, "directory", "C", "", "where to restore to if the job restores to where things were")
	f.StringVar(&replace, "replace", "", "what to do with a VM that is there: a always, w if the backup is newer, o if it is older, n never")
	f.StringVar(&level, "job-level", "", "level of the job that has written the stream")
	f.StringVar(&format, "format", string(pipeline.FormatSame), "make disks into: same, raw, flat, vmfs, sparse, split, stream")
	return c
}

// forceFor returns what decides if a VM is replaced by the time of the backup and
// of what is there; nil where time does not matter.
func forceFor(rule string) func(*stream.Opening, string) bool {
	if rule != replaceIfNewer && rule != replaceIfOlder {
		return nil
	}
	return func(o *stream.Opening, dir string) bool {
		there, ok := newestIn(dir)
		return !ok || (rule == replaceIfNewer) == o.Created.After(there)
	}
}

// newestIn returns when the newest file in a directory was written; false if
// there is none.
func newestIn(dir string) (newest time.Time, found bool) {
	entries, _ := os.ReadDir(dir) // what cannot be read is in nobody's way, or shows when it is replaced
	for _, e := range entries {
		if st, err := e.Info(); err == nil && st.Mode().IsRegular() && (!found || st.ModTime().After(newest)) {
			newest, found = st.ModTime(), true
		}
	}
	return newest, found
}

// runNextRestore restores the stream on stdin for software that calls it once for
// each. It reads on to the end after an error: whoever writes takes a
// reader that has gone for the reason of the failure.
func runNextRestore(ctx context.Context, a *app, o pipeline.RestoreOptions) error {
	o.Warn = a.console.Warn
	in, _, err := a.streamInput("")
	if err != nil {
		return err
	}
	counters := new(stream.Counters)
	o.Read.Counters = counters
	watch := a.console.Watch(counters)
	done, err := pipeline.RestoreNext(ctx, in, o)
	took := watch.Stop()
	if err != nil {
		if ctx.Err() == nil {
			_, _ = io.Copy(io.Discard, in) // an error of it is not the one that counts
		}
		err = cli.Stream(err)
		if errors.Is(err, fs.ErrExist) {
			err = &cli.Error{Code: cli.ExitFailed, Err: err, Hint: "nothing was restored: let the job replace what is there, or restore to another directory"}
		}
		return err
	}
	for _, w := range done.Result.Warnings {
		a.console.Say("detail", cli.Event{"message": w}, "vmstream: when the backup was made: %s", w)
	}
	op := done.Result.Opening
	a.console.Say("summary", cli.Event{
		"id": op.ID, "name": op.Name, "created": op.Created, "paths": done.Paths, "streams": done.Streams,
		"restored_bytes": counters.Done.Load(), "stream_bytes": done.Result.OutBytes, "seconds": took.Seconds(), "warnings": a.console.Warnings(),
	}, "vmstream: restored %s to %s as of %s, all digests right", op.VMName(), o.Dir, op.Created.Format("2006-01-02 15:04:05 UTC"))
	return a.done()
}
