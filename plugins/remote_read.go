// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/vmstream/vmstream/plugins/internal/sinkv1"
	"github.com/vmstream/vmstream/sinks"
)

type readStream = grpc.ServerStreamingClient[sinkv1.ReadResponse]

// transfer is data on its way from another process.
type transfer struct {
	p      *process
	ctx    context.Context
	what   string
	stream readStream
	cancel context.CancelFunc
	lane   *lane // nil: data comes in messages
	info   *sinkv1.Info
	unhook func() bool

	mu    sync.Mutex // of lane, for who does not read
	over  chan struct{}
	last  *sinkv1.ReadResponse // read when over is closed, as is
	err   error
	rest  []byte // of the last message with data
	whole bool   // the pipe has been read to the end of the transfer
	eof   bool   // what End says
}

// transfer begins one. begin begins the call; pipe offers one of the pipes.
func (r *remote) transfer(
	ctx context.Context, what string, begin func(ctx context.Context, pipe uint32) (readStream, error),
) (*transfer, error) {
	inner, cancel := context.WithCancel(ctx)
	t := &transfer{p: r.p, ctx: ctx, what: what, cancel: cancel, lane: r.p.out.take(), over: make(chan struct{})}
	if err := t.open(inner, begin); err != nil {
		cancel()
		t.leave(true)
		return nil, err
	}
	if t.lane != nil {
		go t.receive()
	}
	t.unhook = context.AfterFunc(ctx, func() { t.wake(longPast) })
	return t, nil
}

func (t *transfer) open(inner context.Context, begin func(context.Context, uint32) (readStream, error)) error {
	var err error
	pipe := uint32(0)
	if t.lane != nil {
		pipe = t.lane.number
	}
	if t.stream, err = begin(inner, pipe); err != nil {
		return t.p.broken(t.ctx, t.what, err)
	}
	m, err := t.stream.Recv()
	if err != nil {
		return t.broken(err)
	}
	if err := failed(m.GetFailure()); err != nil {
		return err
	}
	o := m.GetOpened()
	switch {
	case o == nil:
		return t.broken(answer("%T first", m.GetStep()))
	case o.GetPipe() && t.lane == nil:
		return t.broken(answer("it uses a pipe that it has not been offered"))
	case !o.GetPipe():
		t.leave(true)
	}
	t.info = o.GetInfo()
	return nil
}

func (t *transfer) broken(err error) error {
	if errors.Is(err, io.EOF) {
		err = answer("it ends the call")
	}
	return t.p.broken(t.ctx, t.what, err)
}

// receive waits for the one message that follows the data in a pipe. All data is in
// the pipe when it comes, so a reader need not wait for long.
func (t *transfer) receive() {
	t.last, t.err = t.stream.Recv()
	close(t.over)
	t.wake(time.Now().Add(t.p.time.tidy))
}

func (t *transfer) wake(deadline time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lane != nil {
		_ = t.lane.file.SetReadDeadline(deadline) // it is closed if this fails
	}
}

func (t *transfer) leave(whole bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lane.leave(whole)
	t.lane = nil
}

// read reads data. io.EOF is the end of the transfer as the plugin has told it.
func (t *transfer) read(p []byte) (int, error) {
	if t.ctx.Err() != nil {
		return 0, t.broken(context.Cause(t.ctx))
	}
	if t.lane != nil {
		return t.readLane(p)
	}
	for len(t.rest) == 0 {
		m, err := t.stream.Recv()
		if err != nil {
			return 0, t.broken(err)
		}
		if d, ok := m.GetStep().(*sinkv1.ReadResponse_Data); ok {
			t.rest = d.Data
			continue
		}
		return 0, t.finish(m)
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}

// readLane reads from the pipe, and at its end what the plugin says of it.
func (t *transfer) readLane(p []byte) (int, error) {
	if !t.whole {
		select {
		case <-t.over:
			t.wake(time.Now().Add(t.p.time.tidy))
		default:
		}
		if t.ctx.Err() != nil { // a deadline that this one has replaced
			return 0, t.broken(context.Cause(t.ctx))
		}
		n, err := t.lane.reader.Read(p)
		switch {
		case err == nil:
			return n, nil
		case !errors.Is(err, io.EOF):
			return n, t.laneBroken(err)
		}
		t.whole = true
	}
	select {
	case <-t.over:
	case <-t.ctx.Done():
		return 0, t.broken(context.Cause(t.ctx))
	}
	if t.err != nil {
		return 0, t.broken(t.err)
	}
	return 0, t.finish(t.last)
}

// laneBroken says what is behind an error of the pipe: as a rule, the end of the call.
func (t *transfer) laneBroken(err error) error {
	select {
	case <-t.over:
		if t.err != nil {
			err = t.err
		} else if f := failed(t.last.GetFailure()); f != nil {
			return f
		} else if errors.Is(err, os.ErrDeadlineExceeded) {
			err = answer("data without an end")
		}
	case <-t.ctx.Done():
	case <-time.After(drainTime):
	}
	return t.broken(err)
}

// finish takes the last message.
func (t *transfer) finish(m *sinkv1.ReadResponse) error {
	if err := failed(m.GetFailure()); err != nil {
		return err
	}
	end := m.GetEnd()
	if end == nil {
		return t.broken(answer("%T where data ends", m.GetStep()))
	}
	t.eof = end.GetEof()
	return io.EOF
}

// close ends a transfer, also in the middle: what is in the pipe is read away.
func (t *transfer) close() {
	t.unhook()
	t.cancel()
	if t.lane == nil {
		return
	}
	if !t.whole {
		_ = t.lane.file.SetReadDeadline(time.Now().Add(t.p.time.tidy)) // it is closed if this fails
		_, err := io.Copy(io.Discard, t.lane.reader)
		t.whole = err == nil
	}
	<-t.over // the call was cancelled
	t.leave(t.whole)
}

// remoteReader reads an object from its first byte to its last.
type remoteReader struct {
	t    *transfer
	info sinks.Info
	done int64
	err  error
}

// Open begins to read an object.
func (r *remote) Open(ctx context.Context, key string) (io.ReadCloser, sinks.Info, error) {
	if !r.can.Read {
		return nil, sinks.Info{}, r.unsupported("read")
	}
	if err := checkKey(key); err != nil {
		return nil, sinks.Info{}, err
	}
	t, err := r.transfer(ctx, "read", func(ctx context.Context, pipe uint32) (readStream, error) {
		return r.p.sink.Read(ctx, &sinkv1.ReadRequest{Key: []byte(key), Pipe: pipe})
	})
	if err != nil {
		return nil, sinks.Info{}, err
	}
	i, err := infoOf(key, t.info)
	if err != nil {
		t.close()
		return nil, sinks.Info{}, r.wrong("read", err)
	}
	return &remoteReader{t: t, info: i}, i, nil
}

// Read reads on. An end before the length that was told is an error.
func (r *remoteReader) Read(p []byte) (int, error) {
	if r.err != nil || len(p) == 0 {
		return 0, r.err
	}
	n, err := r.t.read(p)
	r.done += int64(n)
	size := r.info.SizeBytes
	switch {
	case size != -1 && r.done > size:
		n, err = 0, r.t.broken(answer("more than the %d bytes that the object has", size))
	case errors.Is(err, io.EOF) && size != -1 && r.done < size:
		err = r.t.broken(fmt.Errorf("%w: it ends after %d of %d bytes", io.ErrUnexpectedEOF, r.done, size))
	}
	r.err = err
	return n, err
}

// Close ends the reading.
func (r *remoteReader) Close() error {
	if !errors.Is(r.err, os.ErrClosed) {
		r.err = os.ErrClosed
		r.t.close()
	}
	return nil
}

// remoteRanges reads an object at any offset.
type remoteRanges struct {
	r      *remote
	ctx    context.Context
	reader uint64
	info   sinks.Info
	once   sync.Once
}

// OpenAt begins to read an object at any offset.
func (r *remote) OpenAt(ctx context.Context, key string) (sinks.RangeReader, error) {
	if !r.can.Range {
		return nil, r.unsupported("range")
	}
	if err := checkKey(key); err != nil {
		return nil, err
	}
	m, err := r.p.sink.OpenReader(ctx, &sinkv1.OpenReaderRequest{Key: []byte(key)})
	if err != nil {
		return nil, r.p.broken(ctx, "read", err)
	}
	if err := failed(m.GetFailure()); err != nil {
		return nil, err
	}
	i, err := infoOf(key, m.GetInfo())
	if err != nil {
		return nil, r.wrong("read", err)
	}
	return &remoteRanges{r: r, ctx: ctx, reader: m.GetReader(), info: i}, nil
}

// Info tells of the object.
func (x *remoteRanges) Info() sinks.Info { return x.info }

// ReadAt reads a range.
func (x *remoteRanges) ReadAt(p []byte, offset int64) (int, error) {
	if offset < 0 {
		return 0, fmt.Errorf("sink %s: read at offset %d", x.r.p.name, offset)
	}
	if len(p) == 0 {
		return 0, nil
	}
	t, err := x.r.transfer(x.ctx, "read", func(ctx context.Context, pipe uint32) (readStream, error) {
		return x.r.p.sink.ReadAt(ctx, &sinkv1.ReadAtRequest{Reader: x.reader, Offset: offset, LengthBytes: int64(len(p)), Pipe: pipe})
	})
	if err != nil {
		return 0, err
	}
	defer t.close()
	n := 0
	for n < len(p) && err == nil {
		var m int
		m, err = t.read(p[n:])
		n += m
	}
	if err == nil { // all is there; what follows can only be the end
		if _, err = t.read(make([]byte, 1)); err == nil {
			err = t.broken(answer("more than the %d bytes that it was asked for", len(p)))
		}
	}
	switch {
	case !errors.Is(err, io.EOF):
		return n, err
	case n == len(p):
		return n, nil
	case !t.eof:
		return n, t.broken(answer("%d of %d bytes, and no end of the object", n, len(p)))
	}
	return n, io.EOF
}

// Close ends the reading.
func (x *remoteRanges) Close() (err error) {
	x.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), x.r.p.time.tidy)
		defer cancel()
		m, callErr := x.r.p.sink.CloseReader(ctx, &sinkv1.CloseReaderRequest{Reader: x.reader})
		if err = failed(m.GetFailure()); callErr != nil {
			err = x.r.p.broken(ctx, "close", callErr)
		}
	})
	return err
}
