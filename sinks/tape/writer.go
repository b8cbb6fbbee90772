// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/vmstream/vmstream/sinks"
)

// chunkBytes is about how much goes through the queue at once.
const chunkBytes = 256 << 10

// fixedBytes is about how much is written to the drive at once in fixed blocks. It may
// all go into the zone behind the early warning, in which the trailer has to fit, too.
const fixedBytes = 64 << 10

// Create begins a stream behind the last one. It labels a blank tape.
func (s *sink) Create(ctx context.Context, key string, o sinks.CreateOptions) (sinks.Writer, error) {
	if err := checkKey(key); err != nil {
		return nil, fmt.Errorf("tape: %w", err)
	}
	if o.Keep || o.Resume {
		return nil, unsupported("going on with what was kept")
	}
	v, err := s.claim(ctx, true)
	if err != nil {
		return nil, err
	}
	w := &writer{s: s, v: v, overwrite: o.Overwrite, entry: entry{Key: key, ID: o.ID, Stream: rand.Text(), Size: -1}}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	if err := w.begin(); err != nil {
		w.cancel(nil)
		var d drive
		if w.v != nil {
			d = w.v.drive
		}
		return nil, errors.Join(fmt.Errorf("tape: %w", err), s.done(nil, d))
	}
	return w, nil
}

// writer writes a stream. What the drive does happens in a goroutine of its own, which
// has everything from v on to itself until running ends.
type writer struct {
	s         *sink
	ctx       context.Context //nolint:containedctx // it bounds the writing
	cancel    context.CancelCauseFunc
	overwrite bool
	q         *queue
	chunk     []byte // being filled
	fixed     bool
	block     int
	written   int64
	ended     bool
	running   chan struct{}

	v        *volume
	entry    entry
	position int64 // before the part being written; -1 if the drive does not tell
	blocks   int64 // in it
	part     int64 // bytes in it
	used     int64 // on the volume
	err      error // how the goroutine has ended
}

// begin goes to where the stream begins, and starts the goroutine.
func (w *writer) begin() error {
	if err := w.prepare(); err != nil {
		return err
	}
	if len(w.v.last.Streams) >= maxStreams {
		return fmt.Errorf("the directory of this set is full, with %d streams: begin another", maxStreams)
	}
	if old := w.v.last.committed().named(w.entry.Key, 0); old != nil && !w.overwrite {
		return fmt.Errorf("%q is stream %d of %s: %w", old.Key, old.Number, w.v.label.Name, sinks.ErrExists)
	}
	w.entry.Number = 1
	if n := len(w.v.last.Streams); n > 0 {
		w.entry.Number = w.v.last.Streams[n-1].Number + 1
	}
	if err := w.v.toEnd(); err != nil {
		return err
	}
	w.beginPart()
	w.fixed, w.block = w.v.label.Fixed, w.v.label.BlockBytes
	w.q = newQueue(w.s.buffer, w.block*max(chunkBytes/w.block, 1))
	w.s.show(w.v.last)
	context.AfterFunc(w.ctx, func() { w.q.fail(context.Cause(w.ctx)) })
	w.running = make(chan struct{})
	go w.run()
	return nil
}

// prepare makes the tape one that can be written to.
func (w *writer) prepare() error {
	v, s := w.v, w.s
	switch {
	case s.relabel && !s.relabeled, v.blank:
		s.relabeled = true
		return v.writeLabel(s.newLabel())
	case !v.known():
		return fmt.Errorf("%w: relabel=1 writes over what is there", v.foreign())
	case v.full():
		return w.change(w.v.last.Streams, nil)
	case !v.last.trailer && v.label.Continues != nil: // what was begun here has no end
		r := *v.label
		r.Continues, r.Written = nil, time.Now().UTC().Truncate(time.Second)
		return v.writeLabel(&r)
	}
	return nil
}

func (s *sink) newLabel() *record {
	return &record{
		Format: formatVersion, Set: rand.Text(), Name: s.label, Volume: 1, BlockBytes: s.block, Fixed: s.fixed,
		Written: time.Now().UTC().Truncate(time.Second), Streams: []entry{},
	}
}

func (w *writer) beginPart() {
	w.position, w.blocks, w.part, w.used = w.v.end, 0, 0, w.v.last.UsedBytes
}

func (w *writer) Write(p []byte) (int, error) {
	switch {
	case w.ended:
		return 0, errEnded
	case w.ctx.Err() != nil:
		return 0, w.failure(context.Cause(w.ctx))
	}
	total := len(p)
	for len(p) > 0 {
		if w.chunk == nil {
			c, err := w.q.take(&w.q.free, false)
			if err != nil {
				return total - len(p), w.failure(err)
			}
			w.chunk = c[:0]
		}
		n := min(len(p), cap(w.chunk)-len(w.chunk))
		w.chunk = append(w.chunk, p[:n]...)
		p = p[n:]
		w.written += int64(n)
		if len(w.chunk) == cap(w.chunk) {
			w.q.put(&w.q.full, w.chunk)
			w.chunk = nil
		}
	}
	return total, nil
}

var errEnded = errors.New("tape: the writer has ended")

func (w *writer) failure(err error) error {
	return fmt.Errorf("tape: %q: %w", w.entry.Key, err)
}

// run writes chunks to the tape until there are no more.
func (w *writer) run() {
	defer close(w.running)
	for {
		c, err := w.q.take(&w.q.full, true)
		if errors.Is(err, errQueueEnded) {
			return
		}
		if err == nil {
			err = w.writeChunk(c)
		}
		if err != nil {
			w.err = err
			w.q.fail(err)
			return
		}
		w.q.put(&w.q.free, c[:cap(c)])
	}
}

// writeChunk writes a chunk, on more than one volume if need be.
func (w *writer) writeChunk(c []byte) error {
	for len(c) > 0 {
		n := w.block
		if w.fixed {
			n *= max(fixedBytes/w.block, 1)
		}
		n = min(n, len(c))
		m, err := w.writeBlocks(c[:n])
		w.count(int64(m))
		c = c[m:]
		if errors.Is(err, errEnd) {
			err = w.nextVolume()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeBlocks writes one block, or several fixed ones.
func (w *writer) writeBlocks(p []byte) (int, error) {
	if c := w.s.capacity; c > 0 && w.used+int64(len(p)) > c {
		return 0, errEnd
	}
	n, err := w.v.drive.write(p)
	if errors.Is(err, errArgument) || errors.Is(err, errBusy) {
		err = fmt.Errorf("%w; the host adapter may not take blocks of %d bytes", err, len(p))
	}
	return n, err
}

func (w *writer) count(bytes int64) {
	if bytes == 0 {
		return
	}
	w.part, w.used = w.part+bytes, w.used+bytes
	if w.fixed {
		w.blocks += bytes / int64(w.block)
	} else {
		w.blocks++
	}
}
