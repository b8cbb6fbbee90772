// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vmstream/vmstream/disk"
)

// bench has the disks and the place to work.
type bench struct {
	options
	log     io.Writer
	work    string          // removed at the end
	disk    string          // the measured disk
	streams map[string]made // by their command, made on demand
	made    int
	stops   []func() // end what runs beside the rows
}

// prepare makes the disks.
func prepare(ctx context.Context, o options, log io.Writer) (*bench, error) {
	b := &bench{options: o, log: log, streams: map[string]made{}}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return nil, err
	}
	// The disk, its streams with every codec, what is restored.
	need := 4*o.diskBytes + 4*xzDiskBytes
	if free, ok := disk.FreeBytes(o.dir); ok && free < need {
		return nil, fmt.Errorf("%s has %d MiB free, %d are needed; choose another place with -dir", o.dir, free>>20, need>>20)
	}
	fmt.Fprintf(log, "disks in %s\n", o.dir)
	var err error
	if b.disk, err = makeDisk(o.dir, o.diskBytes); err != nil {
		return nil, err
	}
	if b.work, err = os.MkdirTemp(o.dir, "work-"); err != nil {
		return nil, err
	}
	if err := b.keepProgram(); err != nil {
		b.cleanUp()
		return nil, err
	}
	return b, nil
}

// keepProgram measures a copy of the program: a build that replaces it while
// this runs would mix two.
func (b *bench) keepProgram() error {
	in, err := os.Open(b.vmstream)
	if err != nil {
		return err
	}
	defer in.Close()
	b.vmstream = b.path("vmstream")
	out, err := os.OpenFile(b.vmstream, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func (b *bench) cleanUp() {
	for _, stop := range b.stops {
		stop()
	}
	os.RemoveAll(b.work)
}

// row is a piece of work and the programs that do it.
type row struct {
	title string
	once  bool     // one run of each, not compared with each other
	cands []cand   // the first is what the others are compared with
	warm  []string // files that are read
}

// cand is a program, or several in a pipeline, that does a row's work.
type cand struct {
	title string // if the pipeline does not say it
	pipe  pipeline
	// measure stands for the pipeline if the work is done in this process.
	measure func(ctx context.Context) (usage, error)
	needs   []string // programs that have to be installed
	before  func(ctx context.Context) error
	check   func(ctx context.Context) error // after the first run
	size    func() (int64, error)           // of what it wrote, if not its output
	count   bool                            // its output's length is of interest
	once    bool
	limits  []limit
}

func (c *cand) name() string {
	if c.title != "" {
		return c.title
	}
	return c.pipe.String()
}

func (c *cand) missing() string {
	for _, p := range c.needs {
		if _, err := exec.LookPath(p); err != nil {
			return p
		}
	}
	return ""
}

// run runs a candidate once. Its runs are timed without counting output.
func (c *cand) run(ctx context.Context, count bool) (usage, error) {
	if c.before != nil {
		if err := c.before(ctx); err != nil {
			return usage{}, fmt.Errorf("prepare %s: %w", c.name(), err)
		}
	}
	if c.measure != nil {
		return c.measure(ctx)
	}
	return c.pipe.run(ctx, count)
}

// result is a measured row.
type result struct {
	Name  string       `json:"name"`
	Title string       `json:"title"`
	Cands []candResult `json:"programs"`
	apart bool         // its programs are not compared with each other
}

// candResult is what a candidate took in each of its runs.
type candResult struct {
	Command  string  `json:"command"`
	Missing  string  `json:"missing,omitempty"` // the program that is not installed
	OutBytes int64   `json:"output_bytes,omitempty"`
	Runs     []usage `json:"runs"`
	limits   []limit
}

// measure runs a row's candidates once to warm up and check them, then in turns.
func (b *bench) measure(ctx context.Context, p plan) (result, error) {
	fmt.Fprintf(b.log, "%s:", p.name)
	defer fmt.Fprintln(b.log)
	r, err := p.build(ctx)
	if err != nil {
		return result{}, err
	}
	res := result{Name: p.name, Title: r.title, apart: r.once}
	if err := warm(r.warm...); err != nil {
		return res, err
	}
	for i := range r.cands {
		c := &r.cands[i]
		cr := candResult{Command: c.name(), Missing: c.missing(), limits: c.limits}
		if cr.Missing == "" && !r.once && !c.once {
			if err := b.first(ctx, c, &cr); err != nil {
				return res, err
			}
		}
		res.Cands = append(res.Cands, cr)
	}
	for turn := range b.runs {
		if r.once && turn > 0 {
			break
		}
		fmt.Fprintf(b.log, " %d", turn+1)
		if err := b.turn(ctx, r, res.Cands, turn); err != nil {
			return res, err
		}
	}
	if r.once {
		return res, b.dropStreams() // many, and nobody else wants them
	}
	return res, nil
}

// first is the run that does not count.
func (b *bench) first(ctx context.Context, c *cand, cr *candResult) error {
	u, err := c.run(ctx, c.count)
	if err != nil {
		return err
	}
	return c.finish(ctx, u, cr)
}

// finish notes the size of what a first run made, and checks it.
func (c *cand) finish(ctx context.Context, u usage, cr *candResult) error {
	cr.OutBytes = u.OutBytes
	if c.size != nil {
		var err error
		if cr.OutBytes, err = c.size(); err != nil {
			return err
		}
	}
	if c.check != nil {
		return c.check(ctx)
	}
	return nil
}

func (b *bench) turn(ctx context.Context, r row, into []candResult, turn int) error {
	for i := range r.cands {
		c := &r.cands[i]
		if into[i].Missing != "" || c.once && turn > 0 {
			continue
		}
		u, err := c.run(ctx, false)
		if err != nil {
			return err
		}
		into[i].Runs = append(into[i].Runs, u)
		if turn == 0 && (r.once || c.once) {
			if err := c.finish(ctx, u, &into[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// made is a stream and what it took to write it.
type made struct {
	file    string
	command string
	usage   usage
}

// stream returns a stream of a disk, written by the measured program with the
// given flags.
func (b *bench) stream(ctx context.Context, disk string, flags ...string) (made, error) {
	p := pipe(b.cmd(append(append([]string{"backup"}, flags...), disk)...))
	key := strings.Join(p.stages[0], " ")
	if m, ok := b.streams[key]; ok {
		return m, nil
	}
	b.made++
	name := fmt.Sprintf("stream%d.tar", b.made)
	if i := slices.Index(flags, "--codec"); i >= 0 && flags[i+1] != "none" {
		name += "." + flags[i+1]
	}
	p.stdout = b.path(name)
	u, err := p.run(ctx, false)
	if err != nil {
		return made{}, err
	}
	fi, err := os.Stat(p.stdout)
	if err != nil {
		return made{}, err
	}
	u.OutBytes = fi.Size()
	b.streams[key] = made{p.stdout, p.String(), u}
	return b.streams[key], nil
}

// dropStreams removes the streams made so far.
func (b *bench) dropStreams() error {
	for key, m := range b.streams {
		if err := os.Remove(m.file); err != nil {
			return err
		}
		delete(b.streams, key)
	}
	return nil
}

// path returns the name of a file in the place to work.
func (b *bench) path(name string) string { return filepath.Join(b.work, name) }

// fresh returns a function that removes files and directories of the place to
// work, for a run that makes them.
func (b *bench) fresh(names ...string) func(context.Context) error {
	return func(context.Context) error {
		for _, n := range names {
			if err := os.RemoveAll(b.path(n)); err != nil {
				return err
			}
		}
		return nil
	}
}

// same returns a function that compares a file of the place to work with a disk.
func (b *bench) same(name, disk string) func(context.Context) error {
	return func(context.Context) error { return sameContent(b.path(name), disk) }
}

func sameContent(a, b string) error {
	fa, err := os.Open(a)
	if err != nil {
		return err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return err
	}
	defer fb.Close()
	ba, bb := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); ; {
		na, erra := io.ReadFull(fa, ba)
		nb, _ := io.ReadFull(fb, bb)
		if !bytes.Equal(ba[:na], bb[:nb]) {
			return fmt.Errorf("%s and %s differ between the bytes %d and %d", a, b, off, off+int64(max(na, nb)))
		}
		if erra != nil {
			return nil
		}
		off += int64(na)
	}
}

// median returns the middle of values, or the mean of the two in the middle.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	m := len(s) / 2
	if len(s)%2 == 1 {
		return s[m]
	}
	return (s[m-1] + s[m]) / 2
}

func seconds(d time.Duration) float64 { return d.Seconds() }
