// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Console is stderr: short lines for people, or one JSON object a line for
// programs. It is safe for concurrent use.
type Console struct {
	JSON    bool
	Quiet   bool // no summary, no progress; warnings and errors stay
	Verbose bool

	mu       sync.Mutex
	w        io.Writer
	terminal bool
	line     bool // a progress line stands there without a newline
	warnings int
	now      func() time.Time
}

// NewConsole returns the console on w.
func NewConsole(w io.Writer) *Console {
	return &Console{w: w, terminal: IsTerminal(w), now: time.Now}
}

// IsTerminal reports if v is a file that is a terminal.
func IsTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Event is an object for programs; "type" and "time" are set by the console.
type Event map[string]any

// emit writes an event as JSON with its type first.
func (c *Console) emit(kind string, e Event) {
	e["time"] = c.now().UTC().Format(time.RFC3339)
	b, err := json.Marshal(e)
	if err != nil {
		b, _ = json.Marshal(Event{"message": err.Error()})
	}
	fmt.Fprintf(c.w, "{\"type\":%q,%s\n", kind, b[1:])
}

// Say tells something that went well: a line for people unless quiet, an event
// of this type for programs.
func (c *Console) Say(kind string, e Event, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.JSON {
		c.emit(kind, e)
		return
	}
	if !c.Quiet {
		c.print(fmt.Sprintf(format, args...))
	}
}

// Detail is Say for what only -v asks for.
func (c *Console) Detail(format string, args ...any) {
	if c.Verbose {
		c.Say("detail", Event{"message": fmt.Sprintf(format, args...)}, format, args...)
	}
}

// Warn tells of trouble that does not stop the work, and counts it.
func (c *Console) Warn(message string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.warnings++
	if c.JSON {
		c.emit("warning", Event{"message": message})
		return
	}
	c.print("vmstream: warning: " + message)
}

// Warnings returns how many warnings there were.
func (c *Console) Warnings() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.warnings
}

// Fail tells why the program ends, with the exit code.
func (c *Console) Fail(err error, code int, hint string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.JSON {
		e := Event{"message": err.Error(), "code": code}
		if hint != "" {
			e["hint"] = hint
		}
		c.emit("error", e)
		return
	}
	c.print("vmstream: " + err.Error())
	if hint != "" {
		c.print("hint: " + hint)
	}
}

// print writes lines over a progress line. Control characters of names and
// messages that come from a disk must not reach a terminal.
func (c *Console) print(s string) {
	if c.line {
		fmt.Fprint(c.w, "\r\x1b[K")
		c.line = false
	}
	for l := range strings.SplitSeq(strings.TrimRight(s, "\n"), "\n") {
		fmt.Fprintln(c.w, Clean(l))
	}
}

// Clean replaces control characters, which a terminal would obey.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// status shows a progress line on a terminal.
func (c *Console) status(s string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprint(c.w, "\r\x1b[K"+Clean(s))
	c.line = true
}

// clearStatus removes the progress line.
func (c *Console) clearStatus() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.line {
		fmt.Fprint(c.w, "\r\x1b[K")
		c.line = false
	}
}
