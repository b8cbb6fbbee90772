// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package process runs commands of the operator and of the host: hooks, and the
// tools that snapshots are made with. A command gets nothing of ours but what it
// is told: its stdin is /dev/null, what it says comes line by line, it has a
// process group of its own, and a time after which that group is killed.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	// grace is the time from the polite signal to the other one, and that for
	// which pipes are read that a command has left to a process behind it.
	grace = 2 * time.Second

	maxLineBytes = 4 << 10
)

// ErrTimeout says that a command was killed because it took too long.
var ErrTimeout = errors.New("it did not end in time and was killed")

// Command is a command to run.
type Command struct {
	Argv    []string
	Env     []string // added to our own
	Unset   []string // names of variables of our own that are left out
	Timeout time.Duration

	// Line takes what the command says, a line of stdout or stderr at a time. It
	// is called by one goroutine at a time. nil drops them.
	Line func(line string)

	// KeepBytes is how much of stdout Run returns at most; what is more is an
	// error. With 0 nothing is kept, and there is no limit.
	KeepBytes int
}

// Run runs the command and returns its stdout. The error says which command it
// was, how it ended, and the last line that it said. ErrTimeout, or the cause of
// ctx, is found by errors.Is if it was killed.
func (c *Command) Run(ctx context.Context) ([]byte, error) {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return nil, errors.New("a command without a name")
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("%w (%v)", ErrTimeout, c.Timeout))
		defer cancel()
	}
	lines := &lineWriter{line: c.Line}
	out := &stdoutWriter{limit: c.KeepBytes, lines: lines}
	x := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	x.Env, x.Stdout, x.Stderr, x.WaitDelay = c.environment(), out, lines.other(), grace
	ownGroup(x)
	err := x.Run()
	lines.flush()
	if errors.Is(err, exec.ErrWaitDelay) { // it has left a process behind, which is its right
		err = nil
	}
	switch {
	case ctx.Err() != nil && err != nil:
		err = context.Cause(ctx)
	case err == nil && out.over:
		err = fmt.Errorf("it said more than %d bytes", c.KeepBytes)
	case err == nil:
		return out.kept.Bytes(), nil
	}
	if last := lines.last; last != "" {
		return out.kept.Bytes(), fmt.Errorf("%s: %w: %s", c.name(), err, last)
	}
	return out.kept.Bytes(), fmt.Errorf("%s: %w", c.name(), err)
}

// name is the command for a message.
func (c *Command) name() string {
	s := strings.ToValidUTF8(strings.Join(c.Argv, " "), "?")
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}

func (c *Command) environment() []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		keep := true
		for _, u := range c.Unset {
			keep = keep && name != u
		}
		if keep {
			env = append(env, v)
		}
	}
	return append(env, c.Env...)
}

// stdoutWriter keeps the beginning and passes everything on as lines.
type stdoutWriter struct {
	kept  bytes.Buffer
	limit int
	over  bool
	lines *lineWriter
}

func (w *stdoutWriter) Write(p []byte) (int, error) {
	room := min(len(p), w.limit-w.kept.Len())
	w.kept.Write(p[:max(room, 0)])
	w.over = w.over || w.limit > 0 && room < len(p)
	return w.lines.Write(p)
}

// lineWriter cuts what is written into lines.
type lineWriter struct {
	mu   sync.Mutex
	line func(string)
	part []byte
	last string
	peer *lineWriter // of stderr, which has unfinished lines of its own
}

// other returns a writer for stderr whose lines go the same way.
func (w *lineWriter) other() *lineWriter {
	w.peer = &lineWriter{line: func(s string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.say(s)
	}}
	return w.peer
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		piece := p
		if i >= 0 {
			piece = p[:i]
		}
		room := maxLineBytes - len(w.part)
		w.part = append(w.part, piece[:min(len(piece), room)]...)
		if i < 0 {
			break
		}
		w.end()
		p = p[i+1:]
	}
	return n, nil
}

func (w *lineWriter) end() {
	s := strings.TrimRight(string(w.part), "\r")
	w.part = w.part[:0]
	if s == "" {
		return
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "?")
	}
	w.say(s)
}

func (w *lineWriter) say(s string) {
	w.last = s
	if w.line != nil {
		w.line(s)
	}
}

// flush gives out a last line without an end. Nothing is written any more.
func (w *lineWriter) flush() {
	if w.peer != nil {
		w.peer.flush()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end()
}
