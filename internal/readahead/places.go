// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package readahead

import (
	"os"
	"sync"
)

// Places is for a file, or several on one storage, that is read in order at several places
// at a time. Its methods may be called concurrently.
type Places struct {
	gauge Gauge
	mu    sync.Mutex
	all   [8]place
	turn  int // the place that is forgotten for another one
}

type place struct {
	next   int64 // where reading goes on
	window Window
}

// ReadAt is [os.File.ReadAt] of f.
func (s *Places) ReadAt(f *os.File, p []byte, off int64) (int, error) {
	s.mu.Lock()
	at := s.place(off)
	at.next = off + int64(len(p))
	s.gauge.askNext(&at.window, f, off)
	s.mu.Unlock()
	return s.gauge.ReadAt(f, p, off)
}

// place returns the one where reading goes on at an offset.
func (s *Places) place(off int64) *place {
	for i := range s.all {
		if s.all[i].next == off {
			return &s.all[i]
		}
	}
	s.turn = (s.turn + 1) % len(s.all)
	s.all[s.turn] = place{}
	return &s.all[s.turn]
}
