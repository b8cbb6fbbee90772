// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vmstream/vmstream/plugins/internal/sinkv1"
	"github.com/vmstream/vmstream/sinks"
)

// timing is how long things may take.
type timing struct {
	start   time.Duration // until a process says where it listens
	ask     time.Duration // until it has described itself
	end     time.Duration // until it has ended by itself
	tidy    time.Duration // until an end of a transfer is answered that nobody waits for
	abort   time.Duration // until an abort is answered
	check   time.Duration // between two questions if it is alive
	respond time.Duration // for the answer
}

var defaultTiming = timing{
	start: 30 * time.Second, ask: 20 * time.Second, end: 5 * time.Second, tidy: 5 * time.Second,
	abort: 2 * time.Minute, check: 20 * time.Second, respond: 40 * time.Second,
}

// launch says how a process is started.
type launch struct {
	name  string // of the sink
	path  string // of the program
	args  []string
	image *executable // what was looked at; nil for our own program
	asked []string    // variables that it wants to see
	log   *slog.Logger
	time  timing
	who   *identity
}

// process is a plugin that runs.
type process struct {
	name  string
	child *child
	sink  sinkv1.SinkClient
	time  timing

	in  *lane // data to the plugin, nil without
	out lanes // data from it, none without

	client  *plugin.Client
	dir     string // of the socket
	ping    func() error
	endOnce sync.Once
	stop    chan struct{} // closed when it is to end
}

// lane is a pipe that one transfer at a time may use.
type lane struct {
	mu     sync.Mutex // held by the transfer
	number uint32     // of those from the plugin, from 1
	file   *os.File
	writer *frameWriter
	reader *frameReader
	broken bool // nobody knows where the next transfer begins
	wide   bool // it has been made so
}

// take returns the lane for a transfer; nil if there is none to be had.
func (l *lane) take() *lane {
	if l == nil || !l.mu.TryLock() {
		return nil
	}
	if l.broken {
		l.mu.Unlock()
		return nil
	}
	if !l.wide { // not before it is used: the system counts what the pipes of a user can hold
		widen(l.file)
		l.wide = true
	}
	return l
}

// lanes are those from the plugin.
type lanes []*lane

// take returns one that is free; nil if there is none.
func (all lanes) take() *lane {
	for _, l := range all {
		if l.take() != nil {
			return l
		}
	}
	return nil
}

// leave ends the use of a lane. whole says that the transfer has come to its end.
func (l *lane) leave(whole bool) {
	if l == nil {
		return
	}
	l.broken = l.broken || !whole
	_ = l.file.SetDeadline(time.Time{}) // it is closed if this fails
	l.mu.Unlock()
}

// start starts a plugin and waits until it listens.
func start(ctx context.Context, l launch) (*process, error) {
	if ctx.Err() != nil {
		l.image.close()
		return nil, context.Cause(ctx)
	}
	cmd := exec.Command(l.path, l.args...) //nolint:noctx // its end is ours to choose
	if l.image == nil {
		cmd.Args[0] = "vmstream" // what the list of processes shows, and not /proc/self/exe
	}
	cmd.Env = append(environment(os.Environ(), l.asked), clientCertificateVariable+"="+string(l.who.pem))
	child, in, out, err := newChild(cmd, l.image)
	if err != nil {
		return nil, err
	}
	p := &process{name: l.name, child: child, time: l.time, stop: make(chan struct{})}
	if in != nil {
		p.in = &lane{file: in, writer: &frameWriter{w: in}}
		for i, f := range out {
			p.out = append(p.out, &lane{number: uint32(i) + 1, file: f, reader: newFrameReader(f)})
		}
	}
	p.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: handshake, VersionedPlugins: versions(nil),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		TLSConfig:        l.who.config(), SkipHostEnv: true, StartTimeout: l.time.start,
		Logger: newLogger(l.log, l.name), PluginLogBufferSize: maxLogLineBytes,
		GRPCDialOptions: []grpc.DialOption{grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.MaxCallSendMsgSize(maxMessageBytes))},
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: socketDir(os.TempDir())},
		RunnerFunc: starter(func(env []string, dir string) runner.Runner {
			cmd.Env = append(cmd.Env, env...)
			p.dir = dir
			return child
		}),
	})
	if err := p.connect(ctx); err != nil {
		p.end(0)
		return nil, fmt.Errorf("sink %s: %w", l.name, err)
	}
	go p.watch()
	return p, nil
}

// maxTempBytes is how long the name of a directory may be for a socket below: the
// system takes 108 bytes, at some places fewer, with what go-plugin puts behind.
const maxTempBytes = 60

// socketDir returns where sockets go, which is the directory of temporary files if that
// is possible.
func socketDir(temp string) string {
	const short = "/tmp"
	if i, err := os.Stat(short); len(temp) > maxTempBytes && err == nil && i.IsDir() {
		return short
	}
	return temp
}

// connect does what may hang: go-plugin takes no context, so the process is killed.
func (p *process) connect(ctx context.Context) error {
	defer context.AfterFunc(ctx, p.kill)()
	rpc, err := p.client.Client()
	var got any
	if err == nil {
		p.ping = rpc.Ping
		got, err = rpc.Dispense(service)
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("%s %w, version %d: %s", p.child.cmd.Args[0], errNoStart, protocolVersion, plain(err.Error()))
	}
	p.sink = got.(sinkv1.SinkClient)
	return nil
}

func (p *process) kill() { _ = p.child.Kill(context.Background()) } // it has ended if this fails

// end ends the process: by request, and after the given time by force.
func (p *process) end(patience time.Duration) {
	p.endOnce.Do(func() {
		close(p.stop)
		if patience == 0 {
			p.kill()
		}
		defer time.AfterFunc(patience, p.kill).Stop()
		p.client.Kill()
		p.kill() // go-plugin takes one that has not told where it listens for none
		p.child.abandon()
		if p.dir != "" {
			_ = os.RemoveAll(p.dir) // go-plugin forgets that of a process that has not started
		}
	})
}

// watch kills a process that has stopped to answer at all, such as one that somebody
// has stopped. What a sink waits for is its own concern. One question without an
// answer is none: we may have been stopped ourselves.
func (p *process) watch() {
	ticker := time.NewTicker(p.time.check)
	defer ticker.Stop()
	for silent := 0; silent < 2; {
		select {
		case <-p.stop:
			return
		case <-p.child.done:
			return
		case <-ticker.C:
		}
		answered := make(chan error, 1)
		go func() { answered <- p.ping() }()
		select {
		case <-answered:
			silent = 0
		case <-p.child.done:
			return
		case <-time.After(p.time.respond):
			silent++
		}
	}
	p.kill()
}

// gone reports if the process has ended. What has broken a connection may be known
// a little later.
func (p *process) gone() bool {
	select {
	case <-p.child.done:
		return true
	case <-time.After(drainTime):
		return false
	}
}

// broken says why a call has not come back with an answer.
func (p *process) broken(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("sink %s: %s: %w", p.name, what, context.Cause(ctx))
	}
	s, isStatus := status.FromError(err)
	switch {
	case isStatus && s.Code() == codes.Unimplemented:
		err = sinks.ErrUnsupported
	case isStatus && s.Code() == codes.ResourceExhausted:
		err = answer("%s", plain(s.Message()))
	case errors.Is(err, errAnswer), errors.Is(err, errFrame):
	case p.gone():
		err = fmt.Errorf("%w: %s", errGone, p.child.ended())
	case ctx.Err() != nil: // the other side has the deadline, too, and was a moment sooner
		err = context.Cause(ctx)
	case isStatus:
		err = fmt.Errorf("%w: %s", errNoAnswer, plain(s.Message()))
	}
	return fmt.Errorf("sink %s: %s: %w", p.name, what, err)
}

// describe asks a plugin what it is. It may ask for the variables in granted.
func (p *process) describe(ctx context.Context, granted []string) (sinks.Description, error) {
	ctx, cancel := context.WithTimeout(ctx, p.time.ask)
	defer cancel()
	m, err := p.sink.Describe(ctx, &sinkv1.DescribeRequest{})
	if err != nil {
		return sinks.Description{}, p.broken(ctx, "describe", err)
	}
	d, err := description(m, p.name, granted)
	if err != nil {
		return sinks.Description{}, fmt.Errorf("sink %s: describe: %w", p.name, err)
	}
	return d, nil
}

// open asks a plugin to open its one target.
func (p *process) open(ctx context.Context, t sinks.Target) (*remote, string, error) {
	m, err := p.sink.Open(ctx, &sinkv1.OpenRequest{Scheme: t.Scheme, Rest: []byte(t.Rest)})
	if err != nil {
		return nil, "", p.broken(ctx, "open", err)
	}
	if err := failed(m.GetFailure()); err != nil {
		return nil, "", err
	}
	c, err := capabilities(m.GetCapabilities())
	if err == nil && len(m.GetKey()) > maxKeyBytes {
		err = answer("a key of %d bytes", len(m.GetKey()))
	}
	if err != nil {
		return nil, "", fmt.Errorf("sink %s: open: %w", p.name, err)
	}
	return &remote{p: p, can: c}, strings.Clone(string(m.GetKey())), nil
}
