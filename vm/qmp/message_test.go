// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

// FuzzMessages reads lines and messages as the client does.
func FuzzMessages(f *testing.F) {
	f.Add([]byte(`{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}` + "\r\n" + `{"return": [{"a": 1}], "id": 7}` + "\n"))
	f.Add([]byte(`{"error": {"class": "GenericError", "desc": "x\u0000"}, "id": 18446744073709551615}` + "\n" + `{"timestamp": {"seconds": 1, "microseconds": 999999}, "event": "X", "data": {}}` + "\n"))
	f.Add([]byte("\xff{\"return\": 1}\n{}\n[[[[\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		lines := NewLineReader(bytes.NewReader(b), 1<<10)
		for {
			line, err := lines.Line()
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, disk.ErrUnsupported) {
					t.Fatalf("line: %v", err)
				}
				return
			}
			if len(line) > 1<<10 {
				t.Fatalf("a line of %d bytes", len(line))
			}
			m, err := parse(line)
			if err != nil {
				if !errors.Is(err, disk.ErrCorrupt) {
					t.Fatalf("message: %v", err)
				}
				continue
			}
			m.event()
			if _, err := m.id(); err != nil && !errors.Is(err, disk.ErrCorrupt) {
				t.Fatalf("id: %v", err)
			}
			if m.Error != nil {
				if s := (&Error{Command: "x", Class: m.Error.Class, Desc: m.Error.Desc}).Error(); bytes.ContainsAny([]byte(s), "\n\r\x00\x1b") {
					t.Fatalf("error %q", s)
				}
			}
		}
	})
}
