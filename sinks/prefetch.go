// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package sinks

import (
	"context"
	"io"
	"sync"
)

// PrefetchOptions bound the memory of Prefetch, which is ChunkBytes × Parallel.
// Fields that are 0 or less have defaults: 8 MiB, 4.
type PrefetchOptions struct {
	ChunkBytes int
	Parallel   int
}

// Prefetch reads r from its first byte to its last, several chunks ahead and at a
// time. The first error in the order of the bytes ends it. Close ends the reads,
// waits for them, and closes r; reads under way end when the context does that r was
// opened with.
func Prefetch(ctx context.Context, r RangeReader, o PrefetchOptions) io.ReadCloser {
	if o.ChunkBytes <= 0 {
		o.ChunkBytes = 8 << 20
	}
	if o.Parallel <= 0 {
		o.Parallel = 4
	}
	p := &prefetch{source: r, options: o, lanes: make([]lane, o.Parallel)}
	p.ctx, p.cancel = context.WithCancel(ctx)
	for i := range p.lanes {
		p.lanes[i] = lane{full: make(chan chunk), empty: make(chan struct{})}
		p.running.Go(func() { p.fetch(i) })
	}
	return p
}

type prefetch struct {
	source  RangeReader
	options PrefetchOptions
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	lanes   []lane

	turn  int // lane that current is from
	held  bool
	now   chunk
	close sync.Once
	err   error // of Close
}

// lane is a goroutine with one buffer. It reads every Parallel-th chunk.
type lane struct {
	full  chan chunk
	empty chan struct{}
}

type chunk struct {
	bytes []byte
	err   error // behind the bytes
}

func (p *prefetch) fetch(i int) {
	size, step := p.source.Info().SizeBytes, int64(p.options.ChunkBytes)
	buffer := []byte(nil)
	for offset := int64(i) * step; ; offset += step * int64(len(p.lanes)) {
		c := chunk{err: io.EOF}
		want := step
		if size >= 0 {
			want = min(step, size-offset)
		}
		if want > 0 && p.ctx.Err() == nil {
			if buffer == nil {
				buffer = make([]byte, want)
			}
			n, err := p.source.ReadAt(buffer[:want], offset)
			if int64(n) == want && err == io.EOF {
				err = nil
			} else if err == io.EOF && size >= 0 {
				err = io.ErrUnexpectedEOF
			}
			c = chunk{bytes: buffer[:n], err: err}
		}
		select {
		case p.lanes[i].full <- c:
		case <-p.ctx.Done():
			return
		}
		if c.err != nil {
			return
		}
		select {
		case <-p.lanes[i].empty:
		case <-p.ctx.Done():
			return
		}
	}
}

func (p *prefetch) Read(b []byte) (int, error) {
	for len(b) > 0 {
		if err := context.Cause(p.ctx); err != nil {
			return 0, err
		}
		if len(p.now.bytes) > 0 {
			n := copy(b, p.now.bytes)
			p.now.bytes = p.now.bytes[n:]
			return n, nil
		}
		if p.now.err != nil {
			return 0, p.now.err
		}
		if err := p.next(); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// next gives a buffer back and takes the chunk that follows.
func (p *prefetch) next() error {
	if p.held {
		select {
		case p.lanes[p.turn].empty <- struct{}{}:
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
		p.turn = (p.turn + 1) % len(p.lanes)
	}
	p.held = false
	select {
	case p.now = <-p.lanes[p.turn].full:
		p.held = true
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

func (p *prefetch) Close() error {
	p.close.Do(func() {
		p.cancel()
		p.running.Wait()
		p.err = p.source.Close()
	})
	return p.err
}
