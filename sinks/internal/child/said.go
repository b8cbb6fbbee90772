// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package child

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"unicode"
)

// Bounds of what is kept and logged of what a program says.
const (
	maxLineBytes = 4 << 10
	maxTailLines = 5
	maxLogLines  = 1000
)

// said takes what a program says, makes lines of it, and keeps the last ones.
type said struct {
	log *slog.Logger

	mu    sync.Mutex
	line  []byte
	tail  []string
	lines int
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(b)
	for len(b) > 0 {
		part, rest, whole := bytes.Cut(b, []byte{'\n'})
		s.line = append(s.line, part[:min(len(part), maxLineBytes-len(s.line))]...)
		if whole {
			s.flush()
		}
		b = rest
	}
	return n, nil
}

func (s *said) flush() {
	text := Clean(string(s.line))
	s.line = s.line[:0]
	if text == "" {
		return
	}
	s.tail = append(s.tail, text)
	if len(s.tail) > maxTailLines {
		s.tail = s.tail[1:]
	}
	s.lines++
	if s.log == nil || s.lines > maxLogLines {
		return
	}
	if s.lines == maxLogLines {
		text = "it says too much; the rest is left out"
	}
	s.log.Info(text)
}

// end returns the last lines.
func (s *said) end() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flush()
	return strings.Join(s.tail, "; ")
}

// Clean makes text of a program fit for a line of a log: no control characters, and
// nothing that is not UTF-8.
func Clean(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?")))
}
