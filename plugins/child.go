// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"time"
)

// child is the process of a plugin, as go-plugin wants to see one. It is here
// because go-plugin's own gives a plugin our stdin, kills the one process and not
// what that has started, and waits without end for who else holds its stderr.
//
// The process has as its stdin a pipe that nothing is written to and that ends
// with us, from descriptor 3 on the pipes for data, and nothing else of ours.
type child struct {
	cmd   *exec.Cmd
	image *executable // nil: the program that we are

	stdout, stderr *os.File // our ends
	theirs         []*os.File
	ours           []*os.File // what is closed when the process has gone

	mu      sync.Mutex
	process *os.Process // once it has started
	killed  bool        // also before it has

	done  chan struct{} // closed when the process has gone
	state error         // how it ended; read after done
}

// drainTime is how long the last words of a process are waited for, which
// another process may keep its stderr from ending.
const drainTime = time.Second

// maxHandshakeBytes bounds the line by which a plugin tells where it listens.
const maxHandshakeBytes = 8 << 10

// pipe makes a pipe for the child; read says that the child reads it. The end that is
// ours is returned.
func (c *child) pipe(read bool) (ours, theirs *os.File, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	ours, theirs = r, w
	if read {
		ours, theirs = w, r
	}
	c.ours, c.theirs = append(c.ours, ours), append(c.theirs, theirs)
	return ours, theirs, nil
}

// newChild prepares a process. in and out are our ends of the pipes for data, nil
// where a process cannot be given any.
func newChild(cmd *exec.Cmd, image *executable) (c *child, in *os.File, out []*os.File, err error) {
	c = &child{cmd: cmd, image: image, done: make(chan struct{})}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	var stdin, stdout, stderr *os.File
	if _, stdin, err = c.pipe(true); err != nil {
		return c, nil, nil, err
	}
	if c.stdout, stdout, err = c.pipe(false); err != nil {
		return c, nil, nil, err
	}
	if c.stderr, stderr, err = c.pipe(false); err != nil {
		return c, nil, nil, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	if runtime.GOOS == "windows" {
		return c, nil, nil, nil
	}
	for i := range 1 + outCount {
		ours, theirs, err := c.pipe(i == 0)
		if err != nil {
			return c, nil, nil, err
		}
		if cmd.ExtraFiles = append(cmd.ExtraFiles, theirs); i == 0 {
			in = ours
		} else {
			out = append(out, ours)
		}
	}
	cmd.Env = append(cmd.Env, pipesVariable+"="+pipesValue)
	return c, in, out, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // pipes: nothing gets lost
	}
}

func (c *child) close() {
	closeAll(c.theirs)
	closeAll(c.ours)
	c.image.close()
}

// Start starts the process. Its thread stays until the process has ended: Linux ends
// the process when the thread that has started it ends.
func (c *child) Start(context.Context) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.spawn()
		started <- err
		if err == nil {
			c.wait()
		}
	}()
	return <-started
}

// errKilled says that a process was not started because its end came first.
var errKilled = errors.New("it was not to be started any more")

func (c *child) spawn() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.killed {
		return errKilled
	}
	release, err := c.isolate()
	if err != nil {
		return err
	}
	defer release()
	if err := c.cmd.Start(); err != nil {
		return err
	}
	c.process = c.cmd.Process
	closeAll(c.theirs)
	return nil
}

// running returns the process; nil if it was not started or has ended.
func (c *child) running() *os.Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.done:
		return nil
	default:
		return c.process
	}
}

// abandon frees what was prepared for a process that has not been started.
func (c *child) abandon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.killed = true; c.process == nil {
		c.close()
	}
}

// wait waits for the end of the process and ends what it has left behind.
func (c *child) wait() {
	c.state = c.cmd.Wait()
	killGroup(c.process.Pid)
	close(c.done)
	end := time.Now().Add(drainTime)
	_ = c.stdout.SetReadDeadline(end) // fails where there are none; it ends by itself there
	_ = c.stderr.SetReadDeadline(end)
}

// Wait waits for the end of the process. go-plugin has read all that it said.
func (c *child) Wait(context.Context) error {
	<-c.done
	c.close()
	return c.state
}

// Kill ends the process and what it has started.
func (c *child) Kill(context.Context) error {
	c.mu.Lock()
	c.killed = true
	c.mu.Unlock()
	p := c.running()
	if p == nil {
		return nil
	}
	killGroup(p.Pid)
	if err := p.Kill(); !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// ended tells how the process has ended.
func (c *child) ended() string {
	if c.state == nil {
		return "it has ended"
	}
	return fmt.Sprintf("it has ended: %v", c.state)
}

// Stdout returns the first line and drops the rest: no plugin has anything else to
// say there.
func (c *child) Stdout() io.ReadCloser { return &firstLine{file: c.stdout} }

// Stderr returns what the plugin says to people.
func (c *child) Stderr() io.ReadCloser { return untilDeadline{c.stderr} }

// Name is what go-plugin calls the logger of the lines of stderr.
func (c *child) Name() string { return logName }

// ID returns the process id.
func (c *child) ID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process == nil {
		return ""
	}
	return strconv.Itoa(c.process.Pid)
}

// Diagnose has nothing to add.
func (c *child) Diagnose(context.Context) string { return "" }

// PluginToHost returns an address as it is: both are on one host.
func (c *child) PluginToHost(network, address string) (string, string, error) {
	if network == "unix" && runtime.GOOS != "windows" || network == "tcp" && runtime.GOOS == "windows" {
		return network, address, nil
	}
	return "", "", fmt.Errorf("it listens on %s %s; a Unix socket is asked for", plain(network), plain(address))
}

// HostToPlugin returns an address as it is.
func (c *child) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

// untilDeadline takes a deadline that has passed for the end.
type untilDeadline struct{ *os.File }

func (r untilDeadline) Read(p []byte) (int, error) {
	n, err := r.File.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
		err = io.EOF
	}
	return n, err
}

// firstLine is the first line of a file, and then silence until its end.
type firstLine struct {
	file *os.File
	line []byte
	read bool
}

func (l *firstLine) Read(p []byte) (int, error) {
	r := untilDeadline{l.file}
	if !l.read {
		b := bufio.NewReaderSize(r, maxHandshakeBytes)
		line, err := b.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			line = line[:maxTextBytes]
		}
		l.line, l.read = append(append(l.line, line...), '\n'), true
	}
	if len(l.line) > 0 {
		n := copy(p, l.line)
		l.line = l.line[n:]
		return n, nil
	}
	_, err := io.Copy(io.Discard, r)
	if err == nil {
		err = io.EOF
	}
	return 0, err
}

func (l *firstLine) Close() error { return l.file.Close() }
