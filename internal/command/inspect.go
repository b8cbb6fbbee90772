// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/stream"
)

const longInspect = `Inspect reads a stream from stdin to its end and tells what is in it. Its
structure is checked, its digests are not: verify does that. With --quick only the
two ends of a file are read, however large it is.

  vmstream inspect < web01.tar
  vmstream inspect --json < web01.tar | jq .disks`

// inspection is what inspect prints with --json. docs/scripting.md has it.
type inspection struct {
	*stream.Opening
	Codec       string        `json:"codec"`
	StreamBytes int64         `json:"stream_bytes"`
	TarBytes    int64         `json:"tar_bytes"`
	Members     int           `json:"members"`
	Frames      int           `json:"frames"`
	Warnings    []string      `json:"warnings"`
	Totals      []inspectDisk `json:"totals"`
	Verified    bool          `json:"verified"` // always false: digests were not checked
}

// inspectDisk sums up a disk.
type inspectDisk struct {
	stream.DiskTotals
	ZeroPercent float64 `json:"zero_percent"` // of the capacity that is not stored
	Ratio       float64 `json:"ratio"`        // extents in the stream by stored bytes
	Frames      int     `json:"frames"`
}

func newInspect(a *app) *cobra.Command {
	var r resources
	var from string
	var quick bool
	c := &cobra.Command{
		Use: "inspect [flags]", Short: "Tell what is in a stream on stdin",
		Long: longInspect + "\n\n" + exitCodes, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runInspect(c, a, &r, from, quick) },
	}
	c.Flags().StringVar(&from, "from", "", "read the stream from this file or target instead of stdin")
	c.Flags().BoolVar(&quick, "quick", false, "read only the opening and the end record; the stream has to be a file or in a sink that reads ranges")
	r.add(c)
	return c
}

func runInspect(c *cobra.Command, a *app, r *resources, from string, quick bool) error {
	if err := r.validate(); err != nil {
		return err
	}
	in, closeInput, err := a.input(c.Context(), from)
	if err != nil {
		return err
	}
	defer closeInput() // only read
	var res *stream.Result
	if quick {
		res, err = findIndex(in)
	} else {
		res, err = pipeline.ReadStream(c.Context(), in, nil,
			stream.ReadOptions{Workers: r.workers, MemoryBytes: int64(r.memory), NoDigests: true})
	}
	if err != nil {
		return cli.Stream(err)
	}
	i := inspect(res)
	if a.console.JSON {
		return a.printJSON(i)
	}
	return a.printText(i.print)
}

// findIndex reads the two ends of a stream in a file.
func findIndex(in io.Reader) (*stream.Result, error) {
	if s, ok := in.(*pipeline.StoredInput); ok {
		return s.FindIndex()
	}
	f, ok := in.(*os.File)
	if !ok {
		return nil, cli.Usage(errors.New("--quick takes a file, not a pipe"))
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, cli.Usage(errors.New("--quick takes a file, not a pipe"))
	}
	return stream.FindIndex(f, st.Size())
}

func inspect(res *stream.Result) *inspection {
	ix := res.Index
	i := &inspection{
		Opening: res.Opening, Codec: ix.Codec, StreamBytes: res.OutBytes, TarBytes: res.TarBytes,
		Members: len(ix.Members) + 1, Warnings: ix.Warnings, Totals: []inspectDisk{},
	}
	if i.Warnings == nil {
		i.Warnings = []string{}
	}
	for d := range ix.Disks {
		t := inspectDisk{DiskTotals: ix.Disks[d]}
		t.ZeroPercent = cli.Percent(t.CapacityBytes-min(t.StoredBytes, t.CapacityBytes), t.CapacityBytes)
		if t.StoredBytes > 0 {
			t.Ratio = float64(t.OutBytes) / float64(t.StoredBytes)
		}
		for _, m := range ix.Members {
			if res.Opening.Disks[d].OwnsExtent(m.Name) {
				t.Frames += len(m.Frames)
			}
		}
		i.Totals = append(i.Totals, t)
	}
	for _, m := range ix.Members {
		i.Frames += len(m.Frames)
	}
	return i
}

func (i *inspection) print(w io.Writer) error {
	fmt.Fprintf(w, "VM           %s\nbackup       %s\ncreated      %s by %s\nconsistency  %s\nstream       %s, codec %s, %d members\n",
		i.Name, i.ID, i.Created.Format("2006-01-02 15:04:05 UTC"), i.Tool, i.Consistency, cli.Bytes(i.StreamBytes), i.Codec, i.Members)
	if i.Depth > 0 {
		fmt.Fprintf(w, "increment    level %d on %s\n", i.Depth, i.ParentID)
	}
	for _, s := range i.Warnings {
		fmt.Fprintf(w, "warning      %s\n", s)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	if len(i.Totals) > 0 {
		fmt.Fprintf(t, "\ndisk\tfile\tcapacity\tstored\tzero\tratio\textents\tframes\tsource\n")
	}
	for d := range i.Totals {
		x := &i.Totals[d]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.1f %%\t%.2f\t%d\t%d\t%s\n", x.Key, x.File, cli.Bytes(x.CapacityBytes), cli.Bytes(x.StoredBytes),
			x.ZeroPercent, x.Ratio, x.Extents, x.Frames, i.Disks[d].Source.Kind)
	}
	if len(i.Files) > 0 {
		fmt.Fprintf(t, "\nfile\tkind\tsize\n")
	}
	for _, f := range i.Files {
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Name, f.Kind, cli.Bytes(f.SizeBytes))
	}
	return t.Flush()
}
