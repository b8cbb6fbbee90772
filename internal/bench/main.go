// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Bench measures vmstream and the programs that a user would pick instead, on
// the same disk in the same run, and prints one Markdown table.
//
// A row's programs take turns, so that a machine that becomes slower meets all
// of them. Times are medians; a ratio is the median of the ratios within each
// turn. CPU time is that of all processes of a pipeline. The disk is in the
// page cache. Programs that are not installed are left out with a note.
//
// It ends with status 1 if a limit is missed, 2 if it cannot measure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
)

const (
	fullDiskBytes  = 4 << 30
	quickDiskBytes = 512 << 20
	// xz is too slow for the whole disk; this is a segment for every slot that
	// two processors have.
	xzDiskBytes = 192 << 20
)

// options are what the flags say.
type options struct {
	run       *regexp.Regexp
	runs      int
	dir       string
	vmstream  string
	s3Server  string // versitygw; empty: from the path
	jsonFile  string
	diskBytes int64
	quick     bool // limits are shown and not judged
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	missed, err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	case missed > 0:
		fmt.Fprintf(os.Stderr, "bench: %d limits missed\n", missed)
		os.Exit(1)
	}
}

// run measures and writes the table to stdout. It returns how many limits were
// missed.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (int, error) {
	o, err := parse(args, stderr)
	if err != nil {
		return 0, err
	}
	b, err := prepare(ctx, o, stderr)
	if err != nil {
		return 0, err
	}
	defer b.cleanUp()
	var results []result
	for _, r := range b.plans() {
		if !o.run.MatchString(r.name) {
			continue
		}
		got, err := b.measure(ctx, r)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", r.name, err)
		}
		results = append(results, got)
	}
	if len(results) == 0 {
		return 0, fmt.Errorf("no row matches %s", o.run)
	}
	rep := newReport(ctx, b, results)
	if err := rep.markdown(stdout); err != nil {
		return 0, err
	}
	if o.jsonFile != "" {
		if err := rep.writeJSON(o.jsonFile); err != nil {
			return 0, err
		}
	}
	return rep.Missed, nil
}

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{diskBytes: fullDiskBytes}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	expr := fs.String("run", "", "measure the rows whose name matches this regular `expression`")
	fs.IntVar(&o.runs, "n", 5, "measure each program this `many` times")
	fs.StringVar(&o.dir, "dir", filepath.Join(os.TempDir(), "vmstream-bench"), "keep the disks and work in this `directory`")
	fs.StringVar(&o.vmstream, "vmstream", "bin/vmstream", "`path` of the program")
	fs.StringVar(&o.s3Server, "s3-server", "", "`path` of versitygw")
	fs.StringVar(&o.jsonFile, "json", "", "write every single measurement to this `file`")
	fs.BoolVar(&o.quick, "quick", false, "a disk of 512 MiB and one run; limits are not judged")
	sizeMiB := fs.Int64("size", 0, "size of the disk in `MiB`, a multiple of 16")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if o.quick {
		o.diskBytes, o.runs = quickDiskBytes, 1
	}
	if *sizeMiB != 0 {
		o.diskBytes = *sizeMiB << 20
	}
	if fs.NArg() > 0 || o.runs < 1 || o.diskBytes <= 0 || o.diskBytes%unitBytes != 0 {
		return o, errors.New("usage: bench [-quick] [-run EXPRESSION] [-n RUNS] [-size MIB] [-dir DIR] [-vmstream PATH] [-s3-server PATH] [-json FILE]")
	}
	var err error
	if o.run, err = regexp.Compile(*expr); err != nil {
		return o, err
	}
	if o.vmstream, err = exec.LookPath(o.vmstream); err != nil {
		return o, fmt.Errorf("%w; build it with make build", err)
	}
	if o.vmstream, err = filepath.Abs(o.vmstream); err != nil {
		return o, err
	}
	o.dir, err = filepath.Abs(o.dir)
	return o, err
}
