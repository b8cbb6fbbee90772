// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package guestagent is a client of the QEMU guest agent: it freezes a guest's
// file systems for the moment of a snapshot and thaws them again. Facts come
// from QEMU's document qemu-ga-ref.
//
// The agent runs inside the guest: what it sends is bounded and trusted less
// than anything else. A guest that says it is frozen may lie.
package guestagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm/qmp"
)

const (
	maxLineBytes = 1 << 20
	maxSkipBytes = 16 << 20        // old replies before the one to guest-sync-delimited
	maxOldLines  = 64              // replies to a sync of somebody before us
	callTimeout  = 5 * time.Second // for commands that are answered at once
)

// ErrFrozen says that the file systems were frozen already, by somebody else
// who will thaw them.
var ErrFrozen = errors.New("file systems of the guest are already frozen by somebody else")

// Client is a connection to an agent. All methods are safe for concurrent use;
// the agent answers one at a time. The agent need not be running: then every
// call ends with its time-out.
type Client struct {
	path string // to connect again; empty if there is no way to

	mu    sync.Mutex // held for a command and its reply
	conn  net.Conn
	lines *qmp.LineReader
	dirty bool // a reply may be on its way that nobody waits for
}

// Dial connects to the agent's unix socket and sees that the agent answers.
func Dial(ctx context.Context, path string) (*Client, error) {
	c := &Client{path: path}
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callTimeout) // who undoes something has more time, and not for this
	defer cancel()
	if err := c.connect(ctx); err != nil {
		return nil, fmt.Errorf("guest agent: %w", err)
	}
	if err := c.sync(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), c.conn.Close())
	}
	return c, nil
}

// NewClient is Dial for a connection that exists, and takes it over. It is
// closed if the agent does not answer.
func NewClient(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{conn: conn, lines: qmp.NewLineReader(conn, maxLineBytes)}
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := c.sync(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

func (c *Client) connect(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.path)
	if err != nil {
		return err
	}
	c.conn, c.lines, c.dirty = conn, qmp.NewLineReader(conn, maxLineBytes), false
	return nil
}

// Close ends the connection. It does not thaw.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn.Close()
}

// Status returns "thawed" or "frozen".
func (c *Client) Status(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status(ctx)
}

func (c *Client) status(ctx context.Context) (string, error) {
	var s string
	if err := c.call(ctx, callTimeout, "guest-fsfreeze-status", nil, &s); err != nil {
		return "", err
	}
	if s != "thawed" && s != "frozen" {
		return "", fmt.Errorf("guest agent: status %.20q: %w", s, disk.ErrUnsupported)
	}
	return s, nil
}

// sync brings both ends to the same place: the agent puts 0xFF before its
// reply, and what came before, for a client that has gone, is dropped. The
// 0xFF that we send makes the agent drop half a command.
func (c *Client) sync(ctx context.Context) error {
	id := rand.Int64N(1 << 52) // exact in any JSON parser
	if err := c.write(ctx, "\xff", "guest-sync-delimited", map[string]int64{"id": id}); err != nil {
		return fmt.Errorf("guest agent: guest-sync-delimited: %w", err)
	}
	for range maxOldLines {
		if err := c.lines.SkipPast(0xff, maxSkipBytes); err != nil {
			return fmt.Errorf("guest agent does not answer; is it running in the guest? %w", err)
		}
		var got int64
		if err := c.reply("guest-sync-delimited", &got); err == nil && got == id {
			c.dirty = false
			return nil
		} else if ne := net.Error(nil); errors.As(err, &ne) {
			return err
		}
	}
	return fmt.Errorf("guest agent: guest-sync-delimited: %d replies, none to this client: %w", maxOldLines, disk.ErrCorrupt)
}

// call runs a command and waits for its reply, no longer than limit.
func (c *Client) call(ctx context.Context, limit time.Duration, name string, args, result any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if c.dirty {
		if err := c.sync(ctx); err != nil {
			return err
		}
	}
	c.dirty = true
	if err := c.write(ctx, "", name, args); err != nil {
		return fmt.Errorf("guest agent: %s: %w", name, err)
	}
	err := c.reply(name, result)
	var refused *qmp.Error
	if err == nil || errors.As(err, &refused) {
		c.dirty = false
	}
	return err
}

// write sends a command and gives it and its reply the context's time.
func (c *Client) write(ctx context.Context, prefix, name string, args any) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(callTimeout)
	}
	if err := c.conn.SetDeadline(deadline); err != nil {
		return err
	}
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{name, args})
	if err != nil {
		return err
	}
	_, err = c.conn.Write(append(append([]byte(prefix), b...), '\n'))
	return err
}

func (c *Client) reply(name string, result any) error {
	line, err := c.lines.Line()
	if err != nil {
		return fmt.Errorf("guest agent: %s: %w", name, err)
	}
	var m struct {
		Return json.RawMessage `json:"return"`
		Error  *struct {
			Class string `json:"class"`
			Desc  string `json:"desc"`
		} `json:"error"`
	}
	switch err := json.Unmarshal(line, &m); {
	case err != nil:
		return fmt.Errorf("guest agent: %s: not a reply (%v): %w", name, err, disk.ErrCorrupt)
	case m.Error != nil:
		return &qmp.Error{Command: name, Class: m.Error.Class, Desc: m.Error.Desc}
	case m.Return == nil:
		return fmt.Errorf("guest agent: %s: neither a value nor an error: %w", name, disk.ErrCorrupt)
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("guest agent: %s: reply (%v): %w", name, err, disk.ErrCorrupt)
	}
	return nil
}

// frozenError reports if the agent refused because it is in frozen state: then
// it disables all commands but a few.
func frozenError(err error) bool {
	var e *qmp.Error
	return errors.As(err, &e) && e.Class == "CommandNotFound" && strings.Contains(e.Desc, "frozen")
}
