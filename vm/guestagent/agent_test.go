// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package guestagent_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm/guestagent"
)

// agent is a guest agent in this process, as its documents describe it.
type agent struct {
	mu     sync.Mutex
	frozen bool
	log    []string

	// hook may answer a command in place of the agent: what it returns is
	// sent; "close" ends the connection, "silent" sends nothing.
	hook func(name string) (string, bool)
}

func (a *agent) commands() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Join(a.log, " ")
}

// listen serves one connection after the other on a socket.
func (a *agent) listen(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ga")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { a.serve(conn) })
		}
	})
	t.Cleanup(func() { _ = l.Close() })
	return path
}

func (a *agent) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		var c struct {
			Execute   string
			Arguments struct{ ID int64 }
		}
		if json.Unmarshal([]byte(strings.TrimPrefix(line, "\xff")), &c) != nil {
			return
		}
		answer := a.answer(c.Execute, c.Arguments.ID)
		if answer == "close" {
			return
		}
		if answer != "silent" {
			if _, err := io.WriteString(conn, answer+"\n"); err != nil {
				return
			}
		}
	}
}

func (a *agent) answer(name string, id int64) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.log = append(a.log, strings.TrimPrefix(strings.TrimPrefix(name, "guest-"), "fsfreeze-"))
	if a.hook != nil {
		if s, ok := a.hook(name); ok {
			return s
		}
	}
	switch {
	case name == "guest-sync-delimited":
		return fmt.Sprintf("\xff{\"return\": %d}", id)
	case name == "guest-fsfreeze-status" && a.frozen:
		return `{"return": "frozen"}`
	case name == "guest-fsfreeze-status":
		return `{"return": "thawed"}`
	case name == "guest-fsfreeze-thaw" && a.frozen:
		a.frozen = false
		return `{"return": 2}`
	case name == "guest-fsfreeze-thaw":
		return `{"return": 0}`
	case a.frozen:
		return `{"error": {"class": "CommandNotFound", "desc": "Command ` + name + ` has been disabled: the agent is in frozen state"}}`
	default:
		a.frozen = true
		return `{"return": 2}`
	}
}

func dial(t *testing.T, a *agent) *guestagent.Client {
	t.Helper()
	c, err := guestagent.Dial(t.Context(), a.listen(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestFreezeThaw(t *testing.T) {
	a := &agent{}
	c := dial(t, a)
	f, err := c.Freeze(t.Context(), time.Minute)
	if err != nil || f.FileSystems != 2 {
		t.Fatalf("%+v, %v", f, err)
	}
	if s, err := c.Status(t.Context()); err != nil || s != "frozen" {
		t.Errorf("status %q, %v", s, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // who stops a backup must not keep the guest frozen
	if d, err := f.Thaw(ctx); err != nil || d <= 0 {
		t.Errorf("thaw: %v, %v", d, err)
	}
	if got, want := a.commands(), "sync-delimited status freeze status thaw"; got != want {
		t.Errorf("commands %q, want %q", got, want)
	}
}

func TestFrozenBySomebodyElse(t *testing.T) {
	a := &agent{frozen: true}
	c := dial(t, a)
	if _, err := c.Freeze(t.Context(), time.Minute); !errors.Is(err, guestagent.ErrFrozen) {
		t.Errorf("got %v", err)
	}
	// The other comes between our status and our freeze.
	a.hook = func(name string) (string, bool) { return `{"return": "thawed"}`, name == "guest-fsfreeze-status" }
	if _, err := c.Freeze(t.Context(), time.Minute); !errors.Is(err, guestagent.ErrFrozen) {
		t.Errorf("got %v", err)
	}
	if s := a.commands(); strings.Contains(s, "thaw") || !a.frozen {
		t.Errorf("another's freeze was thawed: %s", s)
	}
}

func TestTimerThaws(t *testing.T) {
	a := &agent{}
	c := dial(t, a)
	f, err := c.Freeze(t.Context(), 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); !strings.Contains(a.commands(), "thaw") && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if _, err := f.Thaw(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a freeze that was over: %v", err)
	}
	if a.frozen {
		t.Error("still frozen")
	}
}

// TestUnknownOutcome has the agent freeze without a word: what may be frozen
// has to be thawed before the error comes back.
func TestUnknownOutcome(t *testing.T) {
	for _, answer := range []string{"silent", "close", `{"return": "many"}`, "{}", "nonsense", `{"error": {"class": "GenericError", "desc": "no"}}`, `{"return": 0}`} {
		t.Run(answer, func(t *testing.T) {
			a := &agent{}
			a.hook = func(name string) (string, bool) {
				if name == "guest-fsfreeze-freeze-list" {
					a.frozen = true
					return answer, true
				}
				return "", false
			}
			c := dial(t, a)
			if f, err := c.Freeze(t.Context(), 50*time.Millisecond, "/"); err == nil {
				t.Errorf("no error, %+v", f)
			}
			if !strings.HasSuffix(a.commands(), " thaw") || a.frozen {
				t.Errorf("frozen %v after %s", a.frozen, a.commands())
			}
		})
	}
}

func TestThawConnectsAgain(t *testing.T) {
	a := &agent{}
	closed := 0
	a.hook = func(name string) (string, bool) {
		if name == "guest-fsfreeze-thaw" && closed < 2 {
			closed++
			return "close", true
		}
		return "", false
	}
	c := dial(t, a)
	f, err := c.Freeze(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Thaw(t.Context()); err != nil || a.frozen {
		t.Errorf("frozen %v, %v", a.frozen, err)
	}
}

func TestSomebodyThaws(t *testing.T) {
	a := &agent{}
	c := dial(t, a)
	f, err := c.Freeze(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	a.frozen = false
	a.mu.Unlock()
	if _, err := f.Thaw(t.Context()); !errors.Is(err, disk.ErrMismatch) {
		t.Errorf("got %v", err)
	}
}

func TestSyncSkipsWhatIsOld(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() {
		r := bufio.NewReader(theirs)
		b, _ := r.ReadString('\n')
		var c struct{ Arguments struct{ ID int64 } }
		_ = json.Unmarshal([]byte(strings.TrimPrefix(b, "\xff")), &c)
		_, _ = fmt.Fprintf(theirs, "{\"return\": {}}\nrubbish\xff{\"return\": 17}\n\xffhalf\n{\"return\": 18}\n\xff{\"return\": %d}\n", c.Arguments.ID)
	}()
	c, err := guestagent.NewClient(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

func TestHostileAgent(t *testing.T) {
	for name, send := range map[string]string{
		"closes": "", "never in sync": strings.Repeat("\xff{\"return\": 1}\n", 100),
		"endless": strings.Repeat("x", 17<<20), "long line": "\xff" + strings.Repeat(" ", 2<<20),
	} {
		ours, theirs := net.Pipe()
		go func() {
			_, _ = bufio.NewReader(theirs).ReadString('\n')
			_, _ = io.WriteString(theirs, send)
			_ = theirs.Close()
		}()
		if _, err := guestagent.NewClient(t.Context(), ours); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ours, theirs := net.Pipe() // no agent runs in the guest
	defer theirs.Close()
	go func() { _, _ = io.Copy(io.Discard, theirs) }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := guestagent.NewClient(ctx, ours); err == nil || !strings.Contains(err.Error(), "is it running") {
		t.Errorf("silent: got %v", err)
	}
}

// TestDialIsBounded has a caller with much time, and an agent that is mute.
func TestDialIsBounded(t *testing.T) {
	t.Parallel() // it waits
	a := &agent{hook: func(string) (string, bool) { return "silent", true }}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	began := time.Now()
	if _, err := guestagent.Dial(ctx, a.listen(t)); err == nil || time.Since(began) > 15*time.Second {
		t.Errorf("got %v after %v", err, time.Since(began))
	}
}
