// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package child runs the programs that sinks are built on. A program has a process
// group of its own, of which nothing is left when it has ended, and what it says
// on stderr becomes lines of the log.
package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"
)

// grace is the time from the polite signal to the other one.
const grace = 5 * time.Second

// drain is how long stderr is read when the program has ended: whoever holds it
// then has left the group.
const drain = 2 * time.Second

// Command is a program to run.
type Command struct {
	Argv []string
	Env  []string // added to our own; later ones win
	Dir  string
	// Stdin and Stdout ask for pipes. Without, they are /dev/null.
	Stdin, Stdout bool
	Log           *slog.Logger // takes its stderr by lines; nil drops them
	Name          string       // for messages
}

// Process is a program that runs or has ended. Its methods may be called by
// several goroutines.
type Process struct {
	Stdin  *os.File // nil unless asked for; the caller closes it
	Stdout *os.File // nil unless asked for; the caller closes it

	name string
	cmd  *exec.Cmd
	said *said
	done chan struct{}
	err  error // how it ended, once done is closed

	stop     sync.Once
	stopping chan struct{}
}

// Start starts the program. It runs until it ends or Kill is called; no context
// ends it.
func Start(c Command) (*Process, error) {
	p := &Process{name: c.Name, done: make(chan struct{}), stopping: make(chan struct{}), said: &said{log: c.Log}}
	if p.name == "" {
		p.name = c.Argv[0]
	}
	p.cmd = exec.Command(c.Argv[0], c.Argv[1:]...)
	p.cmd.Env, p.cmd.Dir = append(os.Environ(), c.Env...), c.Dir
	ownGroup(p.cmd)
	var theirs, ours []*os.File
	pipe := func(write bool) (mine, other *os.File, err error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, nil, err
		}
		if write {
			r, w = w, r
		}
		ours, theirs = append(ours, r), append(theirs, w)
		return r, w, nil
	}
	stderr, other, err := pipe(false)
	p.cmd.Stderr = other
	if err == nil && c.Stdin {
		p.Stdin, other, err = pipe(true)
		p.cmd.Stdin = other
	}
	if err == nil && c.Stdout {
		p.Stdout, other, err = pipe(false)
		p.cmd.Stdout = other
	}
	if err == nil {
		started := make(chan error)
		go p.run(stderr, started)
		err = <-started
	}
	for _, f := range theirs {
		_ = f.Close()
	}
	if err != nil {
		for _, f := range ours {
			_ = f.Close()
		}
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	return p, nil
}

// run starts the program and waits for it, on one thread: the kernel tells the
// program of the death of the thread that started it.
func (p *Process) run(stderr *os.File, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := p.cmd.Start(); err != nil {
		started <- err
		return
	}
	started <- nil
	heard := make(chan struct{})
	go func() {
		_, _ = io.Copy(p.said, stderr)
		close(heard)
	}()
	err := p.cmd.Wait()
	select {
	case <-p.stopping:
		waitGroup(p.cmd.Process.Pid, grace)
	default:
	}
	killGroup(p.cmd.Process.Pid)
	_ = stderr.SetReadDeadline(time.Now().Add(drain))
	<-heard
	_ = stderr.Close()
	tail := p.said.end()
	if err != nil {
		p.err = fmt.Errorf("%s: %w", p.name, err)
		if tail != "" {
			p.err = fmt.Errorf("%s: %w: %s", p.name, err, tail)
		}
	}
	close(p.done)
}

// Done is closed when the program has ended, and all of its group with it.
func (p *Process) Done() <-chan struct{} { return p.done }

// Ended reports if the program has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Wait waits for the end of the program, at most until ctx ends. The error says how
// the program ended, if not with status 0, and what it said last.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", p.name, context.Cause(ctx))
	}
}

// Status is the exit status, or -1 if the program runs or was ended by a signal.
func (p *Process) Status() int {
	if !p.Ended() {
		return -1
	}
	return p.cmd.ProcessState.ExitCode()
}

// Kill ends the program: it is asked to, and killed when it does not do so soon. Kill
// returns when it is dead. Stdin is left open until then and beyond, so that the
// program cannot take its end for that of the data.
func (p *Process) Kill() {
	p.stop.Do(func() {
		close(p.stopping)
		if p.Ended() {
			return
		}
		askGroup(p.cmd.Process.Pid)
	})
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-p.done:
		return
	case <-t.C:
		killGroup(p.cmd.Process.Pid)
	}
	<-p.done
}

// Feed writes all of b to stdin, unless ctx or the program ends.
func (p *Process) Feed(ctx context.Context, b []byte) (int, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	stop := context.AfterFunc(ctx, func() { _ = p.Stdin.SetWriteDeadline(time.Unix(1, 0)) })
	n, err := p.Stdin.Write(b)
	stop()
	if err == nil {
		return n, nil
	}
	if ctx.Err() != nil {
		return n, fmt.Errorf("%s: %w", p.name, context.Cause(ctx))
	}
	t := time.NewTimer(drain) // it may be about to end, and to say why
	defer t.Stop()
	select {
	case <-p.done:
		if p.err != nil {
			return n, p.err
		}
		return n, p.Early()
	case <-t.C:
		return n, fmt.Errorf("%s: it reads no more, but has not ended: %w", p.name, err)
	}
}

// Early is the error of a program that has ended before it had everything.
func (p *Process) Early() error {
	if p.err != nil {
		return p.err
	}
	return fmt.Errorf("%s: %w", p.name, ErrEarly)
}

// ErrEarly: the program has ended as if it had everything, and has not.
var ErrEarly = errors.New("it ended before it had read everything")
