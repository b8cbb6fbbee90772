// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/vmstream/vmstream/sinks"
)

// childGrace is how long a child has to end by itself when it is asked to.
const childGrace = 10 * time.Second

// child is a program that reads the stream on its stdin. It is a [sinks.Writer]:
// Commit ends its input and waits until it has succeeded, Abort ends it before it sees
// the end of its input, which it would take for that of a whole stream.
type child struct {
	ctx    context.Context
	argv   []string
	x      *exec.Cmd
	pipe   *os.File
	exited chan struct{}
	status error // once exited is closed
	closed sync.Once
	stop   func() bool
}

// startChild starts a program. When ctx ends, writing to it fails.
func startChild(ctx context.Context, argv, env []string, out, errOut io.Writer) (*child, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	growPipe(w)
	x := exec.Command(argv[0], argv[1:]...) // not ended by a context, which would not wait for us
	x.Stdin, x.Stdout, x.Stderr, x.Env, x.WaitDelay = r, out, errOut, append(os.Environ(), env...), childGrace
	ownGroup(x)
	err = x.Start()
	_ = r.Close() // the child has it
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	c := &child{ctx: ctx, argv: argv, x: x, pipe: w, exited: make(chan struct{})}
	interrupt := func() { _ = w.SetWriteDeadline(time.Unix(1, 0)) } // ends a write under way
	c.stop = context.AfterFunc(ctx, interrupt)
	go func() {
		c.status = x.Wait()
		close(c.exited)
		interrupt() // what it has left behind may have the pipe still
	}()
	return c, nil
}

func (c *child) Write(p []byte) (int, error) {
	n, err := c.pipe.Write(p)
	switch {
	case err == nil:
		return n, nil
	case c.ctx.Err() != nil:
		return n, context.Cause(c.ctx)
	case c.hasExited():
		return n, c.early()
	}
	select { // it has closed its input and is about to end
	case <-c.exited:
		return n, c.early()
	case <-time.After(childGrace):
		return n, fmt.Errorf("%s does not read any more: %w", c.argv[0], err)
	}
}

func (c *child) hasExited() bool {
	select {
	case <-c.exited:
		return true
	default:
		return false
	}
}

// early is the error of a child that has ended before its input.
func (c *child) early() error {
	if c.status != nil {
		return c.failure()
	}
	return fmt.Errorf("%s ended before it had read the whole stream", c.argv[0])
}

// failure is without the arguments, which may have secrets in them.
func (c *child) failure() error { return fmt.Errorf("%s: %w", c.argv[0], c.status) }

// Commit ends the input of the child and waits for it.
func (c *child) Commit(ctx context.Context, end sinks.End) (sinks.Info, error) {
	if c.hasExited() {
		return sinks.Info{}, errors.Join(c.early(), c.end())
	}
	if err := c.end(); err != nil {
		return sinks.Info{}, errors.Join(err, c.terminate())
	}
	select {
	case <-c.exited:
	case <-ctx.Done():
		return sinks.Info{}, errors.Join(context.Cause(ctx), c.terminate())
	}
	if c.status != nil && !errors.Is(c.status, exec.ErrWaitDelay) { // it may leave a process behind
		return sinks.Info{}, c.failure()
	}
	return sinks.Info{SizeBytes: end.SizeBytes}, nil
}

// end closes the input.
func (c *child) end() (err error) {
	c.closed.Do(func() {
		c.stop()
		err = c.pipe.Close()
	})
	return err
}

// Abort ends the child, and its input behind it. Behind Commit it does nothing.
func (c *child) Abort(context.Context) error {
	return errors.Join(c.terminate(), c.end())
}

// terminate asks the child to end, kills it if it does not, and waits for it.
func (c *child) terminate() error {
	if c.hasExited() {
		return nil
	}
	endGroup(c.x, false)
	select {
	case <-c.exited:
		return nil
	case <-time.After(childGrace):
	}
	endGroup(c.x, true)
	select {
	case <-c.exited:
		return nil
	case <-time.After(childGrace):
		return fmt.Errorf("%s does not end although it was killed", c.argv[0])
	}
}
