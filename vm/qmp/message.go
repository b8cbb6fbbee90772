// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/vmstream/vmstream/disk"
)

// MaxLineBytes bounds a message of QEMU: query-named-block-nodes of a VM with
// long backing chains takes megabytes.
const MaxLineBytes = 16 << 20

// Error is what QEMU, or a guest agent, says of a command that failed.
type Error struct {
	Command string
	Class   string // such as GenericError, CommandNotFound, DeviceNotFound
	Desc    string // for people; its wording changes between versions
}

// Error returns command and description.
func (e *Error) Error() string {
	s := e.Command + ": " + printable(e.Desc)
	if e.Class != "" && e.Class != "GenericError" {
		s += " (" + printable(e.Class) + ")"
	}
	return s
}

// IsClass reports if err is an [Error] of a class.
func IsClass(err error, class string) bool {
	var e *Error
	return errors.As(err, &e) && e.Class == class
}

// printable makes a peer's text fit for one line of a message.
func printable(s string) string {
	const limit = 1024
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// Event is something that happened in QEMU.
type Event struct {
	Name string // such as BLOCK_JOB_READY
	Data json.RawMessage
	Time time.Time // of QEMU's host; zero if QEMU did not know it
}

// Version is QEMU's.
type Version struct{ Major, Minor, Micro int }

// String returns it as in 7.2.22.
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro) }

// message is any line that QEMU sends: exactly one of greeting, reply and event.
type message struct {
	Greeting *greeting       `json:"QMP"`
	ID       json.RawMessage `json:"id"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

type greeting struct {
	Version struct {
		QEMU Version `json:"qemu"`
	} `json:"version"`
}

// parse reads a line. What it returns does not refer to line.
func parse(line []byte) (*message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return nil, fmt.Errorf("not a message (%v): %w", err, disk.ErrCorrupt)
	}
	kinds := 0
	for _, is := range []bool{m.Greeting != nil, m.Return != nil, m.Error != nil, m.Event != ""} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return nil, fmt.Errorf("a message that is not one of greeting, reply and event: %w", disk.ErrCorrupt)
	}
	return &m, nil
}

func (m *message) event() Event {
	e := Event{Name: m.Event, Data: m.Data}
	if s, us := m.Timestamp.Seconds, m.Timestamp.Microseconds; s >= 0 && us >= 0 && us < 1e6 {
		e.Time = time.Unix(s, us*1000).UTC()
	}
	return e
}

// id returns the number of the command that a reply belongs to.
func (m *message) id() (uint64, error) {
	n, err := strconv.ParseUint(string(bytes.TrimSpace(m.ID)), 10, 64)
	if err != nil {
		why := "none"
		if m.Error != nil {
			why = "none: " + printable(m.Error.Desc)
		}
		return 0, fmt.Errorf("a reply to no command of ours (id %.40q, error %s): %w", m.ID, why, disk.ErrCorrupt)
	}
	return n, nil
}
