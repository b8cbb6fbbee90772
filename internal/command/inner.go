// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"

	"github.com/vmstream/vmstream/internal/cli"
)

// toldError ends a run with a code when everything has been told already.
type toldError int

func (e toldError) Error() string { return "failed, as told" }

// inner runs another command line of this program in the run of a command, and
// returns its exit code. What it has to say it has said on err.
func (a *app) inner(ctx context.Context, out, err io.Writer, args ...string) int {
	var globals []string
	for _, g := range []struct {
		set  bool
		flag string
	}{{a.console.JSON, "--json"}, {a.console.Quiet, "--quiet"}, {a.console.Verbose, "--verbose"}} {
		if g.set {
			globals = append(globals, g.flag)
		}
	}
	return Run(ctx, append(globals, args...), Streams{In: strings.NewReader(""), Out: out, Err: err, Program: a.Program})
}

// told returns the error for an exit code whose reason has been told.
func told(code int) error {
	if code == cli.ExitDone {
		return nil
	}
	return toldError(code)
}

// isTold reports if err is a toldError, and its exit code.
func isTold(err error) (int, bool) {
	var e toldError
	ok := errors.As(err, &e)
	return int(e), ok
}

// meter counts what passes.
type meter struct {
	w io.Writer
	n atomic.Int64
}

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.n.Add(int64(n))
	return n, err
}

// increments is how a backup is run that is to be an increment if it can.
type increments struct {
	args  []string // of backup, without --since
	since string   // index of the parent; "" for a full backup
	out   io.Writer
	err   io.Writer
	told  func(string) // takes why it is a full backup after all

	isFull  bool  // it was one
	written int64 // bytes of the stream
}

// run makes the backup and returns its exit code. Where an increment cannot be
// made, and before anything has been written, a full backup takes its place: it stands
// alone, so nothing is lost but space.
func (b *increments) run(ctx context.Context, a *app) int {
	m := &meter{w: b.out}
	defer func() { b.written = m.n.Load() }()
	if b.since != "" {
		code := a.inner(ctx, m, b.err, append([]string{"backup", "--since", b.since}, b.args...)...)
		cannot := code == cli.ExitSource || code == cli.ExitAudit
		if !cannot || m.n.Load() > 0 || ctx.Err() != nil {
			return code
		}
		b.told("no increment could be made: trying a full backup in its place")
	}
	b.isFull = true
	return a.inner(ctx, m, b.err, append([]string{"backup"}, b.args...)...)
}
