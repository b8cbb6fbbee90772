// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/stream"
)

const longVerify = `Verify reads a stream from stdin to its end and checks every byte of it: all
digests, the metadata of every extent, the descriptors, the end record, and that
nothing follows but increments on it, which are checked as well. Exit code 4 says that
something is wrong.

  vmstream verify < web01.tar.zst
  cat full.tar monday.tar | vmstream verify`

func newVerify(a *app) *cobra.Command {
	var r resources
	var from string
	c := &cobra.Command{
		Use: "verify [flags]", Short: "Check a stream on stdin to its last byte",
		Long: longVerify + "\n\n" + exitCodes, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runVerify(c, a, &r, from) },
	}
	c.Flags().StringVar(&from, "from", "", "read the stream from this file or target instead of stdin")
	r.add(c)
	return c
}

func runVerify(c *cobra.Command, a *app, r *resources, from string) error {
	if err := r.validate(); err != nil {
		return err
	}
	in, closeInput, err := a.input(c.Context(), from)
	if err != nil {
		return err
	}
	defer closeInput() // only read
	counters := new(stream.Counters)
	watch := a.console.Watch(counters)
	all, err := pipeline.ReadSeries(c.Context(), in, nil,
		stream.ReadOptions{Workers: r.workers, MemoryBytes: int64(r.memory), Counters: counters})
	took := watch.Stop()
	if err != nil {
		return cli.Stream(err)
	}
	for _, r := range all[:len(all)-1] {
		a.console.Detail("%s of %s is whole; an increment on it follows", r.Opening.Name, r.Opening.Created.Format("2006-01-02 15:04:05 UTC"))
	}
	res := all[len(all)-1]
	a.console.Say("summary", cli.Event{
		"id": res.Opening.ID, "name": res.Opening.Name, "created": res.Opening.Created, "members": len(res.Index.Members),
		"disks": len(res.Index.Disks), "streams": len(all), "stream_bytes": res.OutBytes, "tar_bytes": res.TarBytes, "seconds": took.Seconds(), "verified": true,
	}, "vmstream: %s of %s is whole: %d members, %d disks, %s of tar, all digests right", res.Opening.Name,
		res.Opening.Created.Format("2006-01-02 15:04:05 UTC"), len(res.Index.Members), len(res.Index.Disks), cli.Bytes(res.TarBytes))
	return nil
}
