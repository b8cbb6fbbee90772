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
	if r.v.label == nil {
		n, err := -1, error(nil)
		if f, ok := strings.CutPrefix(key, fileForm); ok {
			n, err = parseFile(f)
		}
		if err != nil || n < 0 || r.v.blank {
			return sinks.Info{}, 0, fmt.Errorf("%w: it has no label of vmstream", r.s.notThere(key))
		}
		return sinks.Info{Key: key, SizeBytes: -1}, n, nil
	}
	e := r.v.last.named(key, r.v.label.Volume)
	if e == nil {
		return sinks.Info{}, 0, r.s.notThere(key)
	}
	r.want = *e
	return e.info(), e.Parts[0].File, nil
}

func (r *reader) failure(err error) error {
	return fmt.Errorf("tape: %s: %q: %w", r.s.path, r.key, err)
}

// toVolume has a volume of the set put in, unless it is there.
func (r *reader) toVolume(n int) error {
	label := r.v.label
	if label.Volume == n {
		return nil
	}
	old := r.v
	r.v = nil
	v, err := r.s.changeTo(r.ctx, old, wanted{label.Set, label.Name, n, false}, func(v *volume) error {
		switch {
		case v.label == nil:
			return errForeign
		case v.label.Set != label.Set || v.label.Volume != n:
			return fmt.Errorf("it is volume %d of %s (%s)", v.label.Volume, v.label.Name, v.label.Set)
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.v = v
	return nil
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

// padding is how much more was read than the stream has.
func (r *reader) padding() int64 {
	if r.want.Stream == "" || r.want.Size < 0 {
		return 0
	}
	return r.got - r.want.Size
}

// fill reads into c what there is room for. In variable mode a block has to fit.
func (r *reader) fill(c []byte) (int, error) {
	total := 0
	for total < len(c) {
		if r.v.label != nil && !r.v.label.Fixed && len(c)-total < r.v.label.BlockBytes || r.v.label == nil && total > 0 {
			break
		}
		n, err := r.v.drive.read(c[total:])
		if errors.Is(err, errSmall) {
			err = fmt.Errorf("%w: it is longer than %d bytes", err, len(c)-total)
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
	return total, nil
}

// checkPadding fails if more was read than the stream has, and it cannot be padding.
func (r *reader) checkPadding() error {
	pad := r.padding()
	if pad > 0 && (!r.v.label.Fixed || pad >= int64(r.v.label.BlockBytes)) {
		return fmt.Errorf("there is more than its %d bytes: %w", r.want.Size, io.ErrUnexpectedEOF)
	}
	return nil
}

// endOfFile is called at a filemark. It gives io.EOF if the stream has ended, and goes
// to the next volume if there is more.
func (r *reader) endOfFile() error {
	if r.want.Stream == "" {
		return io.EOF
	}
	if r.want.Size < 0 {
		if err := r.look(); err != nil {
			return err
		}
	}
	switch {
	case r.want.Size >= 0 && r.got >= r.want.Size:
		return r.orEnd(r.checkPadding())
	case r.v.label.Volume >= r.want.lastVolume() && !r.want.Continued:
		return fmt.Errorf("%d bytes of %d are there: %w", r.got, r.want.Size, io.ErrUnexpectedEOF)
	}
	return r.nextVolume()
}

func (*reader) orEnd(err error) error {
	if err != nil {
		return err
	}
	return io.EOF
}

// nextVolume goes to where the stream goes on.
func (r *reader) nextVolume() error {
	was := r.v.label
	next := was.Volume + 1
	if err := r.toVolume(next); err != nil {
		return err
	}
	c := r.v.label.Continues
	switch {
	case c == nil || c.Stream != r.want.Stream:
		return fmt.Errorf("volume %d does not go on with it: it was never stored to its end, or the volume was written over: %w", next, io.ErrUnexpectedEOF)
	case c.Bytes != r.got:
		return fmt.Errorf("volume %d goes on at byte %d, and %d bytes were read: %w", next, c.Bytes, r.got, io.ErrUnexpectedEOF)
	case r.v.label.BlockBytes != was.BlockBytes || r.v.label.Fixed != was.Fixed:
		return fmt.Errorf("volume %d has other blocks: %w", next, io.ErrUnexpectedEOF)
	}
	return r.v.toFile(1)
}

// look reads the trailer behind the file, which says if the stream ends here.
func (r *reader) look() error {
	b, err := readRecord(r.v.drive, r.v.readSize())
	if err != nil {
		return fmt.Errorf("read its trailer: %w", err)
	}
	t, err := parseRecord(b)
	if err != nil {
		return fmt.Errorf("it has no trailer: %w: %w", err, io.ErrUnexpectedEOF)
	}
	e := t.find(func(e *entry) bool { return e.Stream == r.want.Stream })
	if e == nil || t.Set != r.v.label.Set {
		return fmt.Errorf("the trailer is of another stream: %w", io.ErrUnexpectedEOF)
	}
	r.want = *e
	return nil
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
