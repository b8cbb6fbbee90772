// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qmp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/vm/qmp"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}` + "\r\n"

// peer is the other end of a connection: it hands commands to answer.
type peer struct {
	net.Conn
	lines *bufio.Reader
}

func (p *peer) next() (string, uint64) {
	b, err := p.lines.ReadBytes('\n')
	var c struct {
		Execute string
		ID      uint64
	}
	if err != nil || json.Unmarshal(b, &c) != nil {
		return "", 0
	}
	return c.Execute, c.ID
}

// connect returns a client in command mode and the peer it talks to.
func connect(t *testing.T) (*qmp.Client, *peer) {
	t.Helper()
	ours, theirs := net.Pipe()
	p := &peer{theirs, bufio.NewReader(theirs)}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.WriteString(p, greeting)
		_, id := p.next()
		_, _ = fmt.Fprintf(p, "{\"return\": {}, \"id\": %d}\r\n", id)
	})
	c, err := qmp.NewClient(t.Context(), ours)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); _ = p.Close() })
	return c, p
}

func TestRepliesAndEvents(t *testing.T) {
	c, p := connect(t)
	if c.Version().String() != "7.2.22" {
		t.Errorf("version %v", c.Version())
	}
	sub := c.Subscribe(func(e qmp.Event) bool { return e.Name != "NOISE" })
	defer sub.Close()
	go func() {
		for {
			name, id := p.next()
			switch name {
			case "":
				return
			case "bad":
				_, _ = fmt.Fprintf(p, `{"error": {"class": "DeviceNotFound", "desc": "no\u0007such"}, "id": %d}`+"\n", id)
			default: // events before and behind the reply, in one packet
				_, _ = fmt.Fprintf(p, `{"event": "NOISE"}`+"\n"+`{"event": "A", "data": {"n": 1}, "timestamp": {"seconds": 5, "microseconds": 7}}`+"\n"+
					`{"return": {"name": %q}, "id": %d}`+"\n"+`{"event": "B", "timestamp": {"seconds": -1, "microseconds": -1}}`+"\n", name, id)
			}
		}
	}()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			var r struct{ Name string }
			want := fmt.Sprint("command-", i)
			if err := c.Run(t.Context(), want, map[string]int{"a": i}, &r); err != nil || r.Name != want {
				t.Errorf("%q, %v, want %q", r.Name, err, want)
			}
		})
	}
	wg.Wait()
	// B first: taking one event leaves the others where they are.
	for _, name := range []string{"B", "A", "A", "B"} {
		e, err := sub.Next(t.Context(), func(e qmp.Event) bool { return e.Name == name })
		if err != nil || e.Name != name {
			t.Fatalf("%+v, %v, want %s", e, err, name)
		}
		if name == "A" && (string(e.Data) != `{"n": 1}` || !e.Time.Equal(time.Unix(5, 7000))) || name == "B" && !e.Time.IsZero() {
			t.Errorf("event %+v", e)
		}
	}
	err := c.Run(t.Context(), "bad", nil, nil)
	if !qmp.IsClass(err, "DeviceNotFound") || err.Error() != "bad: no?such (DeviceNotFound)" {
		t.Errorf("error %v", err)
	}
}

func TestContextEndsWaiting(t *testing.T) {
	c, p := connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	ids := make(chan uint64)
	go func() {
		_, id := p.next()
		ids <- id
		_, id2 := p.next()
		_, _ = fmt.Fprintf(p, "{\"return\": {}, \"id\": %d}\n{\"return\": {}, \"id\": %d}\n", id, id2) // the late one first
	}()
	go func() { cancelAfter(ids, cancel) }()
	if err := c.Run(ctx, "slow", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := c.Run(t.Context(), "next", nil, nil); err != nil {
		t.Errorf("after a command that was given up: %v", err)
	}
	sub := c.Subscribe(func(qmp.Event) bool { return true })
	if _, err := sub.Next(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("event: got %v", err)
	}
}

func cancelAfter(ids <-chan uint64, cancel func()) { <-ids; cancel() }

func TestHostilePeer(t *testing.T) {
	for _, tt := range []struct {
		name, send string
		want       error
	}{
		{"closes", "", io.ErrUnexpectedEOF},
		{"cut line", `{"ret`, io.ErrUnexpectedEOF},
		{"no JSON", "hello\n", disk.ErrCorrupt},
		{"two kinds", `{"return": {}, "event": "X", "id": 2}` + "\n", disk.ErrCorrupt},
		{"no kind", `{"id": 2}` + "\n", disk.ErrCorrupt},
		{"reply without id", `{"return": {}}` + "\n", disk.ErrCorrupt},
		{"error without id", `{"error": {"class": "GenericError", "desc": "x"}}` + "\n", disk.ErrCorrupt},
		{"id of another type", `{"return": {}, "id": "2"}` + "\n", disk.ErrCorrupt},
		{"deep", strings.Repeat("[", 100000) + "\n", disk.ErrCorrupt},
		{"long line", strings.Repeat(" ", qmp.MaxLineBytes+1), disk.ErrUnsupported},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, p := connect(t)
			sub := c.Subscribe(func(qmp.Event) bool { return true })
			go func() {
				p.next()
				_, _ = io.WriteString(p, tt.send)
				_ = p.Close()
			}()
			if err := c.Run(t.Context(), "x", nil, nil); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if _, err := sub.Next(t.Context(), nil); !errors.Is(err, tt.want) {
				t.Errorf("event: got %v, want %v", err, tt.want)
			}
			<-c.Done()
		})
	}
}

func TestEventsNobodyTakes(t *testing.T) {
	c, p := connect(t)
	sub := c.Subscribe(func(qmp.Event) bool { return true })
	go func() {
		_, id := p.next()
		for range 5000 {
			_, _ = io.WriteString(p, "{\"event\": \"X\"}\n")
		}
		_, _ = fmt.Fprintf(p, "{\"return\": {}, \"id\": %d}\n", id)
	}()
	if err := c.Run(t.Context(), "x", nil, nil); err != nil {
		t.Fatal(err)
	}
	n := 0
	for {
		_, ok, err := sub.Take(nil)
		if err != nil {
			if !errors.Is(err, disk.ErrTruncated) || n != 4096 {
				t.Errorf("after %d events: %v", n, err)
			}
			return
		}
		if !ok {
			t.Fatalf("%d events, and no word about those that were lost", n)
		}
		n++
	}
}

func TestGreeting(t *testing.T) {
	for name, send := range map[string]string{"closed": "", "not a greeting": "SSH-2.0\r\n"} {
		ours, theirs := net.Pipe()
		go func() { _, _ = io.WriteString(theirs, send); _ = theirs.Close() }()
		if _, err := qmp.NewClient(t.Context(), ours); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ours, theirs := net.Pipe() // one that keeps silent, as QEMU is to a second client
	defer theirs.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := qmp.NewClient(ctx, ours); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another client") {
		t.Errorf("silent: got %v", err)
	}
}

// TestQEMU talks to a real one: a long reply, an error, an event and a file
// descriptor.
func TestQEMU(t *testing.T) {
	qemu := testenv.Tool(t, "qemu-system-x86_64")
	sock := filepath.Join(t.TempDir(), "qmp")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), qemu, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,accel=tcg", "-m", "32", "-S", "-qmp", "unix:"+sock)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c, err := qmp.NewClient(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var schema []json.RawMessage
	if err := c.Run(t.Context(), "query-qmp-schema", nil, &schema); err != nil || len(schema) < 100 || c.Version().Major < 5 {
		t.Fatalf("schema of %d entries, version %v, %v", len(schema), c.Version(), err)
	}
	if err := c.Run(t.Context(), "no-such-command", nil, nil); !qmp.IsClass(err, "CommandNotFound") {
		t.Errorf("got %v", err)
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := c.RunFile(t.Context(), "getfd", map[string]string{"fdname": "x"}, f, nil); err != nil {
		t.Error(err)
	}
	if err := c.Run(t.Context(), "closefd", map[string]string{"fdname": "x"}, nil); err != nil {
		t.Errorf("the descriptor did not arrive: %v", err)
	}
	sub := c.Subscribe(func(e qmp.Event) bool { return e.Name == "SHUTDOWN" })
	if err := c.Run(t.Context(), "quit", nil, nil); err != nil {
		t.Fatal(err)
	}
	if e, err := sub.Next(t.Context(), nil); err != nil || !strings.Contains(string(e.Data), "host-qmp-quit") {
		t.Errorf("event %+v, %v", e, err)
	}
}
