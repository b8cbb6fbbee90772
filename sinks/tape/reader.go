// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/vmstream/vmstream/sinks"
)

// Open reads a stream from the volume that it begins on to the one that it ends on.
func (s *sink) Open(ctx context.Context, key string) (io.ReadCloser, sinks.Info, error) {
	v, err := s.claim(ctx, false)
	if err != nil {
		return nil, sinks.Info{}, err
	}
	r := &reader{s: s, v: v}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	info, err := r.begin(key)
	if err != nil {
		r.cancel(nil)
		var d drive
		if r.v != nil {
			d = r.v.drive
		}
		return nil, sinks.Info{}, errors.Join(err, s.done(nil, d))
	}
	return r, info, nil
}

// reader reads a stream. What the drive does happens in a goroutine of its own, which
// has v and what is below it to itself until running ends.
type reader struct {
	s       *sink
	ctx     context.Context //nolint:containedctx // it bounds the reading
	cancel  context.CancelCauseFunc
	key     string
	q       *queue
	chunk   []byte // being handed out
	rest    []byte // of it
	err     error  // of every read that follows
	closed  bool
	running chan struct{}

	v    *volume
	want entry // Stream is empty for a file of a tape of others
	got  int64 // bytes read of it
}

// begin finds the stream, goes there, and starts the goroutine.
func (r *reader) begin(key string) (sinks.Info, error) {
	r.key = key
	info, file, err := r.find(key)
	if err != nil {
		return info, err
	}
	size := readBytes
	if r.want.Stream != "" {
		if err := r.toVolume(r.want.Parts[0].Volume); err != nil {
			return info, r.failure(err)
		}
		size = r.v.readSize()
	}
	if err := r.v.toFile(file); err != nil {
		return info, r.failure(err)
	}
	r.q = newQueue(r.s.buffer, size)
	context.AfterFunc(r.ctx, func() { r.q.fail(context.Cause(r.ctx)) })
	r.running = make(chan struct{})
	go r.run()
	return info, nil
}

// find finds the stream in the directory, and the tape file that it begins with.
func (r *reader) find(key string) (sinks.Info, int, error) {
	if !r.v.known() {
		n, err := -1, error(nil)
		if f, ok := strings.CutPrefix(key, fileForm); ok {
			n, err = parseFile(f)
		}
		switch {
		case r.v.blank:
			return sinks.Info{}, 0, fmt.Errorf("%w; the tape is blank", r.s.notThere(key))
		case err != nil || n < 0:
			return sinks.Info{}, 0, fmt.Errorf("%w; %w, its files are read with file=0, file=1 and so on", r.s.notThere(key), r.v.foreign())
		}
		return sinks.Info{Key: key, SizeBytes: -1}, n, nil
	}
	e := r.v.last.opened(key, r.v.label.Volume)
	if e == nil {
		return sinks.Info{}, 0, fmt.Errorf("%w; there are %s", r.s.notThere(key), r.v.last.names())
	}
	r.want = *e
	info := e.info()
	info.Key = key // as it was asked for
	return info, e.Parts[0].File, nil
}

func (r *reader) failure(err error) error {
	return fmt.Errorf("tape: %q: %w", r.key, err)
}

// run reads chunks from the tape until the stream has ended. The last one is held
// back until it is known if it is padded.
func (r *reader) run() {
	defer close(r.running)
	var held []byte
	for {
		c, err := r.q.take(&r.q.free, true)
		if err != nil {
			return
		}
		n, err := r.fill(c)
		if n > 0 && held != nil {
			r.q.put(&r.q.full, held)
		}
		if n > 0 {
			held = c[:n]
		} else {
			r.q.put(&r.q.free, c)
		}
		switch {
		case errors.Is(err, io.EOF):
			if pad := r.padding(); pad > 0 {
				held = held[:max(len(held)-int(pad), 0)]
			}
			if len(held) > 0 {
				r.q.put(&r.q.full, held)
			}
			r.q.end()
			return
		case err != nil:
			r.q.fail(err)
			return
		}
	}
}

// fill reads into c what there is room for.
func (r *reader) fill(c []byte) (int, error) {
	total := 0
	for {
		p := r.room(c[total:])
		if len(p) == 0 || r.want.Stream == "" && total > 0 {
			return total, nil
		}
		n, err := r.v.drive.read(p)
		if errors.Is(err, errSmall) {
			err = fmt.Errorf("%w: it is longer than %d bytes", err, len(p))
		}
		if err != nil {
			return total, err
		}
		if n == 0 {
			return total, r.endOfFile()
		}
		total += n
		r.got += int64(n)
		if err := r.checkPadding(); err != nil {
			return total, err
		}
	}
}

// room is what to ask the drive for: one block where they have lengths of their own.
func (r *reader) room(c []byte) []byte {
	if r.want.Stream == "" || r.v.label.Fixed {
		return c
	}
	n := int64(r.v.label.BlockBytes)
	if int64(len(c)) < n {
		return nil
	}
	if left := r.want.Size - r.got; r.want.Size >= 0 && left > 0 {
		n = min(n, left)
	}
	return c[:n]
}

var errClosed = errors.New("tape: the reader is closed")

func (r *reader) Read(p []byte) (int, error) {
	if r.closed {
		return 0, errClosed
	}
	if len(p) == 0 || r.err != nil {
		return 0, r.err
	}
	for len(r.rest) == 0 {
		if r.chunk != nil {
			r.q.put(&r.q.free, r.chunk[:cap(r.chunk)])
			r.chunk = nil
		}
		c, err := r.q.take(&r.q.full, false)
		if errors.Is(err, errQueueEnded) {
			r.err = io.EOF
			return 0, io.EOF
		}
		if err != nil {
			r.err = r.failure(err)
			return 0, r.err
		}
		r.chunk, r.rest = c, c
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Close ends the reading, wherever it is.
func (r *reader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	r.cancel(errClosed)
	<-r.running
	if r.v == nil {
		return r.s.done(nil, nil)
	}
	if r.err != nil && !errors.Is(r.err, io.EOF) {
		r.s.tellAlerts(r.v.drive)
		return r.s.done(nil, r.v.drive)
	}
	return r.s.done(r.v, nil)
}
