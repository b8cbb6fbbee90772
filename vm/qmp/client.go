// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// handshakeTimeout bounds the wait for QEMU's greeting. QEMU serves one client
// of a socket at a time; the next one connects and then hears nothing.
const handshakeTimeout = 10 * time.Second

// sendTimeout bounds the wait for QEMU to take a command.
const sendTimeout = 10 * time.Second

// Client is a connection to QEMU in command mode. All methods are safe for
// concurrent use; QEMU runs one command after the other.
type Client struct {
	conn    net.Conn
	version Version

	writeMu sync.Mutex // one command at a time on the wire

	mu      sync.Mutex
	lastID  uint64
	pending map[uint64]chan *message // replies that somebody waits for
	subs    map[*Subscription]struct{}
	err     error         // why the connection has ended
	ended   chan struct{} // closed with err set
	reader  sync.WaitGroup
}

// Dial connects to the unix socket at path and enters command mode.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("qmp: %w", err)
	}
	c, err := NewClient(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// NewClient enters command mode on a new connection and takes it over. It is
// closed if that fails.
func NewClient(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{conn: conn, pending: map[uint64]chan *message{}, subs: map[*Subscription]struct{}{}, ended: make(chan struct{})}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	lines := NewLineReader(conn, MaxLineBytes)
	if err := c.greet(ctx, lines); err != nil {
		return nil, errors.Join(fmt.Errorf("qmp: greeting: %w", err), conn.Close())
	}
	c.reader.Go(func() { c.end(c.read(lines)) })
	if err := c.Run(ctx, "qmp_capabilities", nil, nil); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Client) greet(ctx context.Context, lines *LineReader) error {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		line, err := lines.Line()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("none came; another client may be connected to this socket: %w", context.Cause(ctx))
		}
		if err != nil {
			return err
		}
		m, err := parse(line)
		if err != nil {
			return err
		}
		if m.Greeting != nil {
			c.version = m.Greeting.Version.QEMU
			if !stop() { // too late: the deadline is, or will be, set
				return context.Cause(ctx)
			}
			return nil
		}
	}
}

// Version returns QEMU's version as it greeted.
func (c *Client) Version() Version { return c.version }

// Close ends the connection. QEMU goes on with its jobs.
func (c *Client) Close() error {
	c.end(net.ErrClosed)
	c.reader.Wait()
	return nil
}

// Done returns a channel that is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.ended }

// end makes everybody who waits return. The first reason counts.
func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = fmt.Errorf("qmp: connection ended: %w", err)
	close(c.ended)
	_ = c.conn.Close()
}

// read hands messages out until the connection ends.
func (c *Client) read(lines *LineReader) error {
	for {
		line, err := lines.Line()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("QEMU closed it: %w", io.ErrUnexpectedEOF)
		}
		if err != nil {
			return err
		}
		m, err := parse(line)
		if err != nil {
			return err
		}
		if err := c.dispatch(m); err != nil {
			return err
		}
	}
}

func (c *Client) dispatch(m *message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case m.Event != "":
		e := m.event()
		for s := range c.subs {
			s.offer(e)
		}
	case m.Greeting != nil: // a second one means nothing
	default:
		id, err := m.id()
		if err != nil {
			return err
		}
		if reply, ok := c.pending[id]; ok { // else its waiter has given up
			delete(c.pending, id)
			reply <- m
		}
	}
	return nil
}

// Run runs a command. args is marshalled, or left out if nil; the reply is
// unmarshalled into result unless that is nil. What QEMU refuses is an [*Error].
// A command whose context ends may still be carried out.
func (c *Client) Run(ctx context.Context, command string, args, result any) error {
	return c.run(ctx, command, args, nil, result)
}

// RunFile runs a command, such as getfd, that takes a file descriptor; QEMU
// gets a copy of it. The connection must be a unix socket.
func (c *Client) RunFile(ctx context.Context, command string, args any, file *os.File, result any) error {
	return c.run(ctx, command, args, file, result)
}

type command struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

func (c *Client) run(ctx context.Context, name string, args any, file *os.File, result any) error {
	reply := make(chan *message, 1)
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return fmt.Errorf("%s: %w", name, c.err)
	}
	c.lastID++
	id := c.lastID
	c.pending[id] = reply
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.pending, id)
		c.mu.Unlock()
	}()

	b, err := json.Marshal(command{name, args, id})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := c.send(ctx, append(b, '\n'), file); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	m, err := c.await(ctx, reply)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case m.Error != nil:
		return &Error{Command: name, Class: m.Error.Class, Desc: m.Error.Desc}
	case result == nil:
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("%s: reply: %w", name, err)
	}
	return nil
}

func (c *Client) await(ctx context.Context, reply <-chan *message) (*message, error) {
	select {
	case m := <-reply:
		return m, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-c.ended:
	}
	select { // a reply may have come just before the end
	case m := <-reply:
		return m, nil
	default:
		return nil, c.err // set before ended was closed
	}
}

// send writes a line. A line that was written in part ends the connection:
// what follows would be taken for its rest. So a context that ends does not cut
// a write short; sendTimeout does.
func (c *Client) send(ctx context.Context, line []byte, file *os.File) error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := c.conn.SetWriteDeadline(time.Now().Add(sendTimeout))
	switch {
	case err != nil:
	case file != nil:
		err = writeFile(c.conn, line, file)
	default:
		_, err = c.conn.Write(line)
	}
	if err != nil {
		c.end(err)
	}
	return err
}
