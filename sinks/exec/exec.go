// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package exec has the sink that is a program: it reads the stream on stdin, and
// its exit status says if the stream is stored.
package exec

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/internal/child"
)

// shell runs the commands.
const shell = "/bin/sh"

// Driver returns the driver of exec targets.
func Driver() sinks.Driver { return driver{} }

type driver struct{}

func (driver) Describe() sinks.Description {
	return sinks.Description{
		Scheme:       "exec",
		Summary:      "a command that reads the stream on its stdin",
		Form:         "exec:COMMAND[?restore=COMMAND]",
		Options:      options,
		Environment:  []string{"*"}, // the command may need any of it
		Capabilities: sinks.Capabilities{Read: true, Concurrent: true},
	}
}

// Open returns the sink of a target, and the key of its option key. Nothing is run.
func (driver) Open(_ context.Context, t sinks.Target, log *slog.Logger) (sinks.Sink, string, error) {
	s, err := parse(t)
	if err != nil {
		return nil, "", err
	}
	return &sink{Unsupported: sinks.Unsupported{What: "exec: a command"}, settings: s, log: log}, s.key, nil
}

type sink struct {
	sinks.Unsupported
	settings
	log *slog.Logger
}

func (s *sink) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{Read: s.restore != "", Concurrent: true}
}

// start runs a command of the target.
func (s *sink) start(what, command, key string, env []string, c child.Command) (*child.Process, error) {
	if key == "" || strings.ContainsRune(key, 0) {
		return nil, fmt.Errorf("exec: key %q: %w", key, sinks.ErrTarget)
	}
	// The command is not in messages: it may have a secret in it.
	c.Argv, c.Name, c.Log = []string{shell, "-c", command}, "the "+what+" command", s.log
	c.Env = append(env, "VMSTREAM_KEY="+key)
	return child.Start(c)
}

// Create starts the command.
func (s *sink) Create(ctx context.Context, key string, o sinks.CreateOptions) (sinks.Writer, error) {
	if strings.TrimSpace(s.store) == "" {
		return nil, fmt.Errorf("exec: the target has no command that stores: %w", sinks.ErrUnsupported)
	}
	if o.Keep || o.Resume {
		return nil, fmt.Errorf("exec: keep and resume: %w", sinks.ErrUnsupported)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	env := []string{"VMSTREAM_ID=" + o.ID, fmt.Sprintf("VMSTREAM_SIZE_HINT=%d", o.SizeHintBytes), "VMSTREAM_OVERWRITE="}
	if o.Overwrite {
		env[2] += "1"
	}
	p, err := s.start("storing", s.store, key, env, child.Command{Stdin: true})
	if err != nil {
		return nil, err
	}
	return &writer{ctx: ctx, p: p, key: key, timeout: s.timeout}, nil
}

// Open starts the restore command.
func (s *sink) Open(ctx context.Context, key string) (io.ReadCloser, sinks.Info, error) {
	if s.restore == "" {
		return nil, sinks.Info{}, fmt.Errorf("exec: the target has no ?restore=COMMAND: %w", sinks.ErrUnsupported)
	}
	if ctx.Err() != nil {
		return nil, sinks.Info{}, context.Cause(ctx)
	}
	p, err := s.start("restore", s.restore, key, nil, child.Command{Stdout: true})
	if err != nil {
		return nil, sinks.Info{}, err
	}
	return child.NewReader(ctx, p), sinks.Info{Key: key, SizeBytes: -1}, nil
}
