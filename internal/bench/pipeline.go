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
	"strings"
	"time"
)

// pipeline is a row of programs joined by pipes, as a shell runs it.
type pipeline struct {
	stages [][]string
	stdin  string // a file, or empty for /dev/null
	stdout string // the same, to be made
	dir    string
	env    []string // added to the environment
}

// pipe returns the pipeline of stages.
func pipe(stages ...[]string) pipeline { return pipeline{stages: stages} }

// shell returns the pipeline of one shell command.
func shell(command string) pipeline { return pipe([]string{"sh", "-ec", command}) }

// from returns the pipeline with a file as its standard input.
func (p pipeline) from(file string) pipeline {
	p.stdin = file
	return p
}

// in returns the pipeline with a working directory.
func (p pipeline) in(dir string) pipeline {
	p.dir = dir
	return p
}

// String returns the pipeline as a shell would take it, paths shortened to
// their last element.
func (p pipeline) String() string {
	var all []string
	for _, argv := range p.stages {
		words := make([]string, len(argv))
		for i, a := range argv {
			words[i] = a
			if strings.HasPrefix(a, "/") && !strings.HasPrefix(a, "/dev/") && !strings.Contains(a, " ") {
				words[i] = filepath.Base(a)
			}
		}
		if len(argv) == 3 && argv[0] == "sh" {
			words = words[2:]
		}
		all = append(all, strings.Join(words, " "))
	}
	s := strings.Join(all, " | ")
	if p.stdin != "" {
		s += " < " + filepath.Base(p.stdin)
	}
	if p.stdout != "" {
		s += " > " + filepath.Base(p.stdout)
	}
	return s
}

// usage is what a run took: all its processes together, and what they waited
// for.
type usage struct {
	Wall     time.Duration `json:"wall_ns"`
	CPU      time.Duration `json:"cpu_ns"`       // user and system
	RSSBytes int64         `json:"rss_bytes"`    // of the largest process, at its peak
	OutBytes int64         `json:"output_bytes"` // if it was counted
}

// run runs the pipeline and returns what it took. With count, its output is
// read here and its length noted, which costs time: no run for the table.
func (p pipeline) run(ctx context.Context, count bool) (usage, error) {
	r, err := p.prepare(ctx)
	if err != nil {
		return usage{}, err
	}
	defer r.closeFiles()
	var counted chan int64
	if count {
		if counted, err = r.countOutput(); err != nil {
			return usage{}, err
		}
	}
	start := time.Now()
	err = r.start()
	r.closeFiles() // else no reader sees the end of its pipe
	for _, c := range r.started {
		if werr := c.Wait(); werr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w: %s", strings.Join(c.Args, " "), werr, lastLines(c.Stderr)))
		}
	}
	u := usage{Wall: time.Since(start)}
	for _, c := range r.started {
		u.CPU += c.ProcessState.UserTime() + c.ProcessState.SystemTime()
		u.RSSBytes = max(u.RSSBytes, peakRSS(c.ProcessState))
	}
	if counted != nil {
		u.OutBytes = <-counted
	}
	return u, err
}

// running is a pipeline on its way.
type running struct {
	cmds    []*exec.Cmd
	started []*exec.Cmd
	files   []*os.File // ours until all processes have been started
}

func (p pipeline) prepare(ctx context.Context) (*running, error) {
	r := &running{}
	for _, argv := range p.stages {
		c := exec.CommandContext(ctx, argv[0], argv[1:]...)
		c.Dir = p.dir
		c.Env = append(os.Environ(), "LC_ALL=C")
		c.Env = append(c.Env, p.env...)
		c.Stderr = &tail{}
		r.cmds = append(r.cmds, c)
	}
	if p.stdin != "" {
		f, err := os.Open(p.stdin)
		if err != nil {
			return nil, err
		}
		r.files = append(r.files, f)
		r.cmds[0].Stdin = f
	}
	if p.stdout != "" {
		f, err := os.Create(p.stdout)
		if err != nil {
			r.closeFiles()
			return nil, err
		}
		r.files = append(r.files, f)
		r.cmds[len(r.cmds)-1].Stdout = f
	}
	for i := range r.cmds[1:] {
		pr, pw, err := os.Pipe()
		if err != nil {
			r.closeFiles()
			return nil, err
		}
		r.files = append(r.files, pr, pw)
		r.cmds[i].Stdout, r.cmds[i+1].Stdin = pw, pr
	}
	return r, nil
}

// countOutput lets the last program write into a pipe that is read here.
func (r *running) countOutput() (chan int64, error) {
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	r.files = append(r.files, pw)
	r.cmds[len(r.cmds)-1].Stdout = pw
	n := make(chan int64, 1)
	go func() {
		defer pr.Close()
		got, _ := io.CopyBuffer(writerOnly{io.Discard}, pr, make([]byte, 256<<10))
		n <- got
	}()
	return n, nil
}

func (r *running) start() error {
	for _, c := range r.cmds {
		if err := c.Start(); err != nil {
			return err
		}
		r.started = append(r.started, c)
	}
	return nil
}

func (r *running) closeFiles() {
	for _, f := range r.files {
		f.Close()
	}
	r.files = nil
}

// tail keeps the end of what a program says on its standard error.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	const keep = 2000
	t.b = append(t.b, p...)
	if len(t.b) > keep {
		t.b = append(t.b[:0], t.b[len(t.b)-keep:]...)
	}
	return len(p), nil
}

func lastLines(w io.Writer) string {
	t, ok := w.(*tail)
	if !ok {
		return ""
	}
	return string(bytes.TrimSpace(t.b))
}
