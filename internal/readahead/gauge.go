// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package readahead has the system read files before they are read here, where their
// storage takes long to answer.
package readahead

import (
	"math"
	"os"
	"sync/atomic"
	"time"
)

// Bytes is how much is best asked for before it is read, so that a storage has much to do
// at a time.
const Bytes = 8 << 20

// lasting is how much is asked for when long reads have had to wait: those that follow do
// not wait if that helps. After a short one it is [Bytes].
const lasting = 32 * Bytes

// short is what the system reads at once.
const short = 128 << 10

// Gauge tells if reading a file, or several on one storage, has to wait. What is in memory
// is not asked for: that takes a tenth of the time that reading it takes. Its methods may
// be called concurrently.
type Gauge struct {
	left atomic.Int64 // bytes that are still asked for since a read had to wait
	slow atomic.Int32 // long reads that have waited, less those that have not
}

// ReadAt is [os.File.ReadAt] of f, and looks how long that takes.
func (g *Gauge) ReadAt(f *os.File, p []byte, off int64) (int, error) {
	return g.look(func() (int, error) { return f.ReadAt(p, off) })
}

func (g *Gauge) look(read func() (int, error)) (int, error) {
	begin := time.Now()
	n, err := read()
	took := time.Since(begin)
	if n > short {
		g.long(took > waited(n))
	} else if took > waited(n) && g.left.Load() < Bytes {
		g.left.Store(Bytes)
	}
	return n, err
}

// long notes a long read. Where it begins elsewhere than the last one has ended, it waits
// at any storage; if reads that go on wait as well, more of them do than do not.
func (g *Gauge) long(late bool) {
	switch {
	case !late:
		if n := g.slow.Load(); n > 0 {
			g.slow.CompareAndSwap(n, n-1)
		}
	case g.slow.Add(1) > 1:
		g.slow.Store(1)
		g.left.Store(lasting)
	}
}

// waited is how long a read of n bytes takes at most if there is nothing to be gained.
// A short one is compared with one from memory. A long one is read ahead by the system, in
// larger pages than what is asked for, so that it has to be slower than 250 MB/s.
func waited(n int) time.Duration {
	return 50*time.Microsecond + time.Duration(min(n, short)/2+max(n-short, 0)*4)
}

// Ask has the system begin to read the range [from, to) of f, if a read has had to wait
// lately. It does not wait. What cannot be read is an error when it is read.
func (g *Gauge) Ask(f *os.File, from, to int64) {
	if from < 0 || from >= to || g.left.Load() <= 0 {
		return
	}
	g.left.Add(from - to)
	ask(f, from, to)
}

// askNext asks for what comes next of f for who reads it in order, and goes on at a byte.
func (g *Gauge) askNext(w *Window, f *os.File, at int64) {
	w.Reach(at, math.MaxInt64, func(from, to int64) { g.Ask(f, from, to) })
}
