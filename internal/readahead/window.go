// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package readahead

import "os"

// AtOnce is how much is best read at once: nothing is asked for during a read.
const AtOnce = 1 << 20

// Window moves over what is read in order, and tells what to ask for. It is not safe for
// concurrent use.
type Window struct {
	asked int64 // up to here
}

// Reach says that reading goes on at a byte, at most to an end, and calls ask with the
// range to ask for, [Bytes] at most; not each time.
func (w *Window) Reach(at, end int64, ask func(from, to int64)) {
	from := max(w.asked, at)
	if end-at > Bytes {
		end = at + Bytes
		if from > at+Bytes/2 {
			return
		}
	}
	if from < end {
		w.asked = end
		ask(from, end)
	}
}

// Reader reads a regular file in order.
type Reader struct {
	f      *os.File
	gauge  Gauge
	window Window
	at     int64
}

// NewReader returns a Reader of f, which stands at a byte.
func NewReader(f *os.File, at int64) *Reader { return &Reader{f: f, at: at} }

// Read is [os.File.Read] for at most [AtOnce].
func (r *Reader) Read(p []byte) (int, error) {
	p = p[:min(len(p), AtOnce)]
	r.gauge.askNext(&r.window, r.f, r.at)
	n, err := r.gauge.look(func() (int, error) { return r.f.Read(p) })
	r.at += int64(n)
	return n, err
}
