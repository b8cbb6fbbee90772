// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package guestagent

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm/qmp"
)

// FuzzReplies reads what an agent may send: bytes to skip, then replies.
func FuzzReplies(f *testing.F) {
	f.Add([]byte("{\"return\": {}}\n\xff{\"return\": 4711}\n{\"return\": \"thawed\"}\n"))
	f.Add([]byte("\xff{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"the agent is in frozen state\"}}\r\n{}\n[]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &Client{lines: qmp.NewLineReader(bytes.NewReader(b), 1<<10)}
		_ = c.lines.SkipPast(0xff, 64)
		for {
			var n int64
			err := c.reply("x", &n)
			var refused *qmp.Error
			switch {
			case err == nil, errors.Is(err, disk.ErrCorrupt):
			case errors.As(err, &refused):
				frozenError(err)
			case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, disk.ErrUnsupported):
				return
			default:
				t.Fatal(err)
			}
		}
	})
}
