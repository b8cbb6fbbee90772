// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/stream"
)

// storeFlags say where a stream is stored.
type storeFlags struct {
	to, optional            []string
	overwrite, resume, keep bool
	rate                    rate
	spool                   cli.Size
	spoolDir                string

	targets []*target // as they are named; nil for stdout
	stdout  begin

	// Of the program that gets the stream, see run.
	argv    []string
	program begin
	started bool
}

// begin begins what is no sink; see [pipeline.Place].
type begin func(context.Context) (sinks.Writer, error)

// rate is a number of bytes per second, as 10M or 10M/s.
type rate struct{ cli.Size }

func (r *rate) Set(v string) error { return r.Size.Set(strings.TrimSuffix(v, "/s")) }

func (s *storeFlags) addTargets(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&s.to, "to", nil, "store the stream in this target, - for stdout; may be repeated")
	f.StringArrayVar(&s.optional, "to-optional", nil, "store it here too; a failure is only warned of; may be repeated")
	f.BoolVar(&s.overwrite, "overwrite", false, "replace what a target has")
	f.Var(&s.rate, "limit-rate", "bytes of the stream per second at most, such as 10M/s (0: no bound)")
}

func (s *storeFlags) add(c *cobra.Command) {
	s.addTargets(c)
	c.Flags().Var(&s.spool, "spool", "how much of the stream may wait in a file, so that the snapshot need not last as long as it takes to store it, such as 20G (0: nothing)")
	c.Flags().StringVar(&s.spoolDir, "spool-dir", "", "directory of that file (default: that of temporary files)")
	c.Flags().BoolVar(&s.keep, "keep-partial", false, "if the backup fails, keep what has been stored for --resume")
	c.Flags().BoolVar(&s.resume, "resume", false, "go on with what --keep-partial has kept; needs --id and --time, those of the first attempt")
}

func (s *storeFlags) validate(id, created string) error {
	switch {
	case s.resume && (id == "" || created == ""):
		return cli.Usage(errors.New("--resume needs --id and --time, both as they were: only then are the bytes the same"))
	case len(s.argv) > 0 && slices.Contains(s.all(), "-"):
		return cli.Usage(errors.New("stdout is the program's: leave --to - out"))
	case s.rate.Size < 0:
		return cli.Usage(errors.New("--limit-rate must not be less than 0"))
	case s.spool < 0:
		return cli.Usage(errors.New("--spool must not be less than 0"))
	case s.spoolDir != "" && s.spool == 0:
		return cli.Usage(errors.New("--spool-dir is for --spool"))
	case (s.resume || s.keep || s.overwrite) && len(s.all()) == 0:
		return cli.Usage(errors.New("--resume, --keep-partial and --overwrite are for --to"))
	}
	all := s.all()
	for i, name := range all {
		if slices.Contains(all[:i], name) {
			return cli.Usage(errors.New("a target is there twice"))
		}
	}
	return nil
}

func (s *storeFlags) all() []string { return append(slices.Clone(s.to), s.optional...) }

// usesStdout reports if stdout gets a stream.
func (s *storeFlags) usesStdout() bool {
	all := s.all()
	return len(all) == 0 && len(s.argv) == 0 || slices.Contains(all, "-")
}

// open opens all targets, before anything is done to the source.
func (s *storeFlags) open(ctx context.Context, a *app, out io.Writer) error {
	if out != nil {
		s.stdout = func(ctx context.Context) (sinks.Writer, error) { return pipeline.PlainWriter(ctx, out), nil }
	}
	for _, name := range s.all() {
		if name == "-" {
			s.targets = append(s.targets, nil)
			continue
		}
		t, err := a.openTarget(ctx, name)
		if err != nil {
			return asSink(err)
		}
		s.targets = append(s.targets, t)
		if (s.resume || s.keep) && !t.sink.Capabilities().Resume {
			return cli.Usage(fmt.Errorf("%s: this sink cannot go on with what was kept: leave --resume and --keep-partial out", t.name))
		}
	}
	return nil
}

func (s *storeFlags) close() {
	for _, t := range s.targets {
		if t != nil {
			_ = t.sink.Close() // everything has been committed or aborted
		}
	}
}

// refuse fails if a target is one of the files that are read.
func (s *storeFlags) refuse(disk string, files []string) error {
	for _, t := range s.targets {
		if t == nil || t.path == "" {
			continue
		}
		st, err := os.Stat(t.path)
		if err != nil {
			continue
		}
		for _, name := range files {
			if other, err := os.Stat(name); err == nil && !st.IsDir() && os.SameFile(st, other) {
				return cli.Usage(fmt.Errorf("%s is read and would be written%s", name, ofDisk(disk)))
			}
		}
	}
	return nil
}

func ofDisk(key string) string {
	if key == "" {
		return ""
	}
	return ": it is a file of disk " + key
}

// begin begins an object in each target, and returns what the stream is to be
// written to. The storage is nil if that is stdout alone.
func (s *storeFlags) begin(ctx context.Context, out io.Writer, name, id, codec string) (io.Writer, *pipeline.Storage, error) {
	if len(s.targets) == 0 && s.rate.Size == 0 && s.spool == 0 && s.program == nil {
		return out, nil, nil
	}
	var places []pipeline.Place
	if s.program != nil {
		places = append(places, pipeline.Place{Name: s.argv[0], Begin: s.program})
	}
	for i, t := range s.targets {
		p := pipeline.Place{Name: "-", Begin: s.stdout, Optional: i >= len(s.to)}
		if t != nil {
			p = pipeline.Place{Name: t.name, Sink: t.sink, Key: t.key, Optional: p.Optional}
			if t.place() {
				p.Key += objectName(name, id, codec)
				p.Name = strings.TrimSuffix(t.name, "/") + "/" + objectName(name, id, codec)
			}
		}
		places = append(places, p)
	}
	if len(places) == 0 {
		places = []pipeline.Place{{Name: "-", Begin: s.stdout}}
	}
	store, err := pipeline.CreateStorage(ctx, places, pipeline.StorageOptions{
		Create:         sinks.CreateOptions{Overwrite: s.overwrite, Resume: s.resume, Keep: s.keep || s.resume, ID: id},
		BytesPerSecond: int64(s.rate.Size), SpoolBytes: int64(s.spool), SpoolDir: s.spoolDir,
	})
	return store, store, asSink(err)
}

// objectName is what a stream is called in a target that ends with a slash.
func objectName(name, id, codec string) string {
	s := name + "-" + id + ".tar"
	switch codec {
	case "zstd":
		s += ".zst"
	case "lz4", "xz":
		s += "." + codec
	}
	return s
}

// mergedName returns the name and the id that a merge up to last is going to have.
// They are needed only for a target that ends with a slash.
func (s *storeFlags) mergedName(ctx context.Context, a *app, last string) (name, id string, err error) {
	if !slices.ContainsFunc(s.targets, func(t *target) bool { return t != nil && t.place() }) {
		return "", "", nil
	}
	ix, err := a.parent(ctx, last)
	if err != nil {
		return "", "", cli.Usage(fmt.Errorf("a target that ends with / is named after the last increment, which has to be a file then: %w", err))
	}
	return ix.Opening.VMName(), ix.ID, nil
}

// storeEnd commits what was written, or gives it up if err is one.
func (a *app) storeEnd(ctx context.Context, s *pipeline.Storage, res *stream.Result, err error) ([]pipeline.PlaceResult, error) {
	if s == nil {
		return nil, err
	}
	if err == nil {
		err = asSink(s.Commit(ctx, res))
	}
	if err != nil {
		if aerr := s.Abort(ctx); aerr != nil {
			a.console.Warn(aerr.Error())
		}
		return nil, err
	}
	places := s.Results()
	for _, p := range places {
		if p.Err != nil {
			a.console.Warn(fmt.Sprintf("not stored in %s: %v", p.Name, p.Err))
		}
	}
	return places, nil
}

// asSink marks err as trouble with a sink; nil stays nil.
func asSink(err error) error {
	var coded *cli.Error
	if err == nil || errors.As(err, &coded) {
		return err
	}
	return &cli.Error{Code: cli.ExitSink, Err: err}
}

func targetEvents(places []pipeline.PlaceResult) []cli.Event {
	var all []cli.Event
	for _, p := range places {
		e := cli.Event{"target": p.Name, "stored_bytes": p.StoredBytes, "seconds": p.Seconds}
		if p.Err != nil {
			e["error"] = p.Err.Error()
		}
		all = append(all, e)
	}
	return all
}
