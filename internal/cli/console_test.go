// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/signal"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmstream/vmstream/stream"
)

func console(b *bytes.Buffer) *Console {
	c := NewConsole(b)
	c.now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }
	return c
}

func TestConsole(t *testing.T) {
	all := func(c *Console) {
		c.Say("summary", Event{"n": 1}, "done %d", 1)
		c.Detail("more")
		c.Warn("odd")
		c.Fail(errors.New("bad"), 5, "")
	}
	for _, k := range []struct {
		name string
		set  func(*Console)
		want string
	}{
		{"plain", func(*Console) {}, "done 1\nvmstream: warning: odd\nvmstream: bad\n"},
		{"quiet", func(c *Console) { c.Quiet = true }, "vmstream: warning: odd\nvmstream: bad\n"},
		{"verbose", func(c *Console) { c.Verbose = true }, "done 1\nmore\nvmstream: warning: odd\nvmstream: bad\n"},
		{"JSON", func(c *Console) { c.JSON = true }, `{"type":"summary","n":1,"time":"2026-01-02T03:04:05Z"}
{"type":"warning","message":"odd","time":"2026-01-02T03:04:05Z"}
{"type":"error","code":5,"message":"bad","time":"2026-01-02T03:04:05Z"}
`},
	} {
		t.Run(k.name, func(t *testing.T) {
			var b bytes.Buffer
			c := console(&b)
			k.set(c)
			all(c)
			if b.String() != k.want {
				t.Errorf("got\n%swant\n%s", b.String(), k.want)
			}
			if c.Warnings() != 1 {
				t.Errorf("%d warnings", c.Warnings())
			}
		})
	}
}

// TestConsoleIsClean has text from a disk: it reaches a terminal without
// control characters, and one event stays one line.
func TestConsoleIsClean(t *testing.T) {
	const evil = "a\x1b[31mb\rc\x00d\x7fe\u009bf"
	var b bytes.Buffer
	c := console(&b)
	c.Warn(evil)
	if want := "vmstream: warning: a?[31mb?c?d?e?f\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
	b.Reset()
	c.JSON = true
	c.Warn("two\nlines" + evil)
	var e map[string]string
	if err := json.Unmarshal(b.Bytes(), &e); err != nil || strings.Count(b.String(), "\n") != 1 || e["message"] != "two\nlines"+evil {
		t.Errorf("%q: %v", b.String(), err)
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"plain", "\x1b[31m", "\u009b", "\xff\xfe", "tab\tis kept"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range Clean(s) {
			if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
				t.Fatalf("%q has %U", Clean(s), r)
			}
		}
	})
}

// TestConsoleConcurrent writes from several goroutines: lines stay whole.
func TestConsoleConcurrent(t *testing.T) {
	var b bytes.Buffer
	c := console(&b)
	c.JSON = true
	var g sync.WaitGroup
	for range 8 {
		g.Go(func() {
			for range 50 {
				c.Warn("x")
			}
		})
	}
	g.Wait()
	for line := range strings.Lines(b.String()) {
		if !json.Valid([]byte(line)) {
			t.Fatalf("%q", line)
		}
	}
	if c.Warnings() != 400 {
		t.Errorf("%d warnings", c.Warnings())
	}
}

// TestProgress runs a clock: events come at their interval, and no line at all
// where stderr is no terminal.
func TestProgress(t *testing.T) {
	// The process has one goroutine for all signals. It must not be started in
	// the bubble of a test, which would wait for its end.
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, os.Interrupt)
	defer signal.Stop(asked)
	run := func(t *testing.T, set func(*Console)) string {
		var b bytes.Buffer
		synctest.Test(t, func(*testing.T) {
			c := NewConsole(&b)
			set(c)
			n := new(stream.Counters)
			n.Total.Store(100 << 20)
			p := c.Watch(n)
			time.Sleep(time.Second) // of the test's own clock
			n.Done.Store(50 << 20)
			n.Zero.Store(25 << 20)
			n.Out.Store(10 << 20)
			time.Sleep(9*time.Second + 100*time.Millisecond)
			if took := p.Stop(); took < 10*time.Second || took > 11*time.Second {
				t.Errorf("took %v", took)
			}
		})
		return b.String()
	}
	if got := run(t, func(*Console) {}); got != "" {
		t.Errorf("no terminal: %q", got)
	}
	got := run(t, func(c *Console) { c.JSON = true })
	lines := strings.Split(strings.TrimSpace(got), "\n")
	var e map[string]any
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &e); err != nil {
		t.Fatal(err)
	}
	if len(lines) != 2 || e["type"] != "progress" || e["done_bytes"] != 50.0*(1<<20) || e["bytes_per_second"] != 5.0*(1<<20) || e["eta_seconds"] != 10.0 {
		t.Errorf("events: %s", got)
	}
	got = run(t, func(c *Console) { c.terminal = true })
	if want := "50.0 MiB of 100.0 MiB (50 %), 5.0 MiB/s, 50 % zero, 10.0 MiB in the stream, 0:10 left"; !strings.Contains(got, want) || !strings.HasSuffix(got, "\r\x1b[K") {
		t.Errorf("terminal: %q", got)
	}
	if got := run(t, func(c *Console) { c.terminal, c.Quiet = true, true }); got != "" {
		t.Errorf("quiet: %q", got)
	}
}

// TestProgressLine has a message while a progress line stands there.
func TestProgressLine(t *testing.T) {
	var b bytes.Buffer
	c := console(&b)
	c.terminal = true
	c.status("half")
	c.Warn("odd")
	if want := "\r\x1b[Khalf\r\x1b[Kvmstream: warning: odd\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}
