// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/stream"
)

const longMerge = `Merge reads a full backup and the increments on it, oldest first, side by side, and
writes to stdout the full backup that the last one would have been. No source is
needed. It has the id of the last increment, so that later increments fit it. All
streams are verified on the way; if one is damaged, what has been written has no
end record and no command takes it for a backup.

A name may be a pipe, or - for stdin.

  vmstream merge full.tar monday.tar tuesday.tar > full-tuesday.tar
  vmstream merge --to /backup/ full.tar monday.tar tuesday.tar`

func newMerge(a *app) *cobra.Command {
	var r resources
	var cf codecFlags
	var store storeFlags
	c := &cobra.Command{
		Use: "merge [flags] FULL INCREMENT...", Short: "Make a full backup of a full one and its increments",
		Long: longMerge + "\n\n" + exitCodes, Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error { return runMerge(c, a, &r, &cf, &store, args) },
	}
	cf.add(c)
	r.add(c)
	store.addTargets(c)
	return c
}

func runMerge(c *cobra.Command, a *app, r *resources, cf *codecFlags, store *storeFlags, args []string) error {
	if err := errors.Join(r.validate(), cf.validate()); err != nil {
		return cli.Usage(err)
	}
	var out io.Writer
	var err error
	if store.usesStdout() {
		if out, err = a.streamOutput(); err != nil {
			return err
		}
	}
	defer store.close()
	if err := store.open(c.Context(), a, out); err != nil {
		return err
	}
	ins, closeInputs, err := a.streamInputs(c.Context(), args)
	if err != nil {
		return err
	}
	defer closeInputs()
	for i, in := range ins {
		if sameFile(in, out) {
			return cli.Usage(fmt.Errorf("%s is read and would be written", args[i]))
		}
	}
	o := stream.Options{
		Tool: "vmstream " + Version(), Codec: cf.spec, Workers: r.workers, MemoryBytes: int64(r.memory),
		Counters: new(stream.Counters), Warn: a.console.Warn,
	}
	if err := store.refuse("", args); err != nil {
		return err
	}
	name, id, err := store.mergedName(c.Context(), a, args[len(args)-1])
	if err != nil {
		return err
	}
	w, stored, err := store.begin(c.Context(), out, name, id, cf.spec.Name)
	if err != nil {
		return err
	}
	p := a.console.Watch(o.Counters)
	res, err := pipeline.Merge(c.Context(), w, ins, o)
	places, err := a.storeEnd(c.Context(), stored, res, err)
	took := p.Stop()
	if err != nil {
		return cli.Stream(err)
	}
	reportBackup(a, res, nil, o.Counters, took, 0, places)
	return a.done()
}
