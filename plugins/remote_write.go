// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/vmstream/vmstream/plugins/internal/sinkv1"
	"github.com/vmstream/vmstream/sinks"
)

type writeStream = grpc.BidiStreamingClient[sinkv1.WriteRequest, sinkv1.WriteResponse]

// long past is a deadline that wakes who waits for a pipe.
var longPast = time.Unix(1, 0)

// remoteWriter writes an object in another process.
type remoteWriter struct {
	r      *remote
	key    string
	ctx    context.Context // of Create: when it ends, Write fails
	stream writeStream
	cancel context.CancelFunc // breaks the call
	lane   *lane              // nil: data goes into messages
	unhook func() bool

	answers chan *sinkv1.WriteResponse // what came, closed at the end of the call
	over    chan struct{}              // closed at the end of the call
	callErr error                      // how it ended; read when that is closed

	mu      sync.Mutex // of lane, for who does not write, and of sending
	sending bool       // a message with data is on its way, and may get stuck

	written int64
	err     error // final, of Write
	ended   bool
}

// maxAnswers is more than the answers to one object.
const maxAnswers = 4

// Create begins an object.
func (r *remote) Create(ctx context.Context, key string, o sinks.CreateOptions) (sinks.Writer, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	if (o.Resume || o.Keep) && !r.can.Resume {
		return nil, r.unsupported("resume")
	}
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w := &remoteWriter{r: r, key: key, ctx: ctx, cancel: cancel, answers: make(chan *sinkv1.WriteResponse, maxAnswers), over: make(chan struct{})}
	w.lane = r.p.in.take()
	if err := w.create(inner, o); err != nil {
		w.cancel()
		w.leave(true)
		return nil, err
	}
	w.unhook = context.AfterFunc(ctx, w.wake)
	return w, nil
}

// create sends the request and waits for the answer.
func (w *remoteWriter) create(inner context.Context, o sinks.CreateOptions) (err error) {
	if w.stream, err = w.r.p.sink.Write(inner); err != nil {
		return w.r.p.broken(w.ctx, "create", err)
	}
	request := &sinkv1.Create{
		Key: []byte(w.key), Overwrite: o.Overwrite, Keep: o.Keep, Resume: o.Resume,
		SizeHintBytes: o.SizeHintBytes, Id: strings.ToValidUTF8(o.ID, "?"), Pipe: w.lane != nil,
	}
	// An error of Send is io.EOF, and Recv has the one that matters.
	_ = w.stream.Send(&sinkv1.WriteRequest{Step: &sinkv1.WriteRequest_Create{Create: request}})
	go w.receive()
	m, err := w.answer(w.ctx, "create")
	if err != nil {
		return err
	}
	ready := m.GetReady()
	switch {
	case ready == nil:
		return w.r.wrong("create", answer("%T where it should be ready", m.GetStep()))
	case ready.GetPipe() && w.lane == nil:
		return w.r.wrong("create", answer("it waits for a pipe that it has not been offered"))
	case !ready.GetPipe():
		w.leave(true)
	}
	return nil
}

// leave gives the pipe back.
func (w *remoteWriter) leave(whole bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lane.leave(whole)
	w.lane = nil
}

// receive takes the answers. What comes after Ready tells the writer to stop.
func (w *remoteWriter) receive() {
	defer close(w.answers)
	for i := 0; ; i++ {
		m, err := w.stream.Recv()
		if err == nil && i == maxAnswers {
			err = answer("more than %d answers to one object", maxAnswers)
			w.cancel()
		}
		if err != nil {
			w.callErr = err
			close(w.over)
			w.wake()
			return
		}
		w.answers <- m
		if i > 0 {
			w.wake()
		}
	}
}

// wake ends a Write that waits.
func (w *remoteWriter) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lane != nil {
		_ = w.lane.file.SetWriteDeadline(longPast) // it is closed if this fails
	} else if w.sending {
		w.cancel() // the plugin takes it for an abort
	}
}

// answer waits for an answer that is no failure.
func (w *remoteWriter) answer(ctx context.Context, what string) (*sinkv1.WriteResponse, error) {
	select {
	case m, ok := <-w.answers:
		return w.told(ctx, what, m, ok)
	case <-ctx.Done():
		return nil, fmt.Errorf("sink %s: %s: %w", w.r.p.name, what, context.Cause(ctx))
	}
}

func (w *remoteWriter) told(ctx context.Context, what string, m *sinkv1.WriteResponse, ok bool) (*sinkv1.WriteResponse, error) {
	if !ok {
		err := w.callErr
		if errors.Is(err, io.EOF) {
			err = answer("it ends the call")
		}
		return nil, w.r.p.broken(ctx, what, err)
	}
	if f := m.GetFailure(); f != nil {
		return nil, failed(f)
	}
	return m, nil
}

// pending returns why there is nothing more to write.
func (w *remoteWriter) pending() error {
	select {
	case m, ok := <-w.answers:
		_, err := w.told(w.ctx, "write", m, ok)
		if err == nil {
			err = w.r.wrong("write", answer("%T in the middle of an object", m.GetStep()))
		}
		return err
	default:
	}
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	return nil
}

// Write passes data on.
func (w *remoteWriter) Write(p []byte) (int, error) {
	if w.ended && w.err == nil {
		w.err = errors.New("the object has ended")
	}
	if w.err == nil {
		w.err = w.pending()
	}
	if w.err != nil {
		return 0, w.err
	}
	var n int
	var err error
	if w.lane != nil {
		n, err = w.lane.writer.Write(p)
	} else {
		n, err = w.send(p)
	}
	w.written += int64(n)
	if err != nil {
		w.err = w.why(err)
	}
	return n, w.err
}

// why finds what is behind an error of a pipe or of a message.
func (w *remoteWriter) why(err error) error {
	if cause := w.pending(); cause != nil {
		return cause
	}
	select {
	case m, ok := <-w.answers: // the call ends with the process that the pipe was to
		if _, cause := w.told(w.ctx, "write", m, ok); cause != nil {
			return cause
		}
	case <-time.After(w.r.p.time.tidy):
	}
	return w.r.p.broken(w.ctx, "write", err)
}

func (w *remoteWriter) send(p []byte) (int, error) {
	w.mu.Lock()
	w.sending = true
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.sending = false
		w.mu.Unlock()
	}()
	if w.ctx.Err() != nil { // and nobody has seen that a message is on its way
		return 0, context.Cause(w.ctx)
	}
	n := 0
	for n < len(p) {
		piece := p[n:min(n+dataBytes, len(p))]
		if err := w.stream.Send(&sinkv1.WriteRequest{Step: &sinkv1.WriteRequest_Data{Data: piece}}); err != nil {
			return n, err
		}
		n += len(piece)
	}
	return n, nil
}

// Commit has the object appear. Of what comes back nothing is believed that does not
// fit what was sent.
func (w *remoteWriter) Commit(ctx context.Context, end sinks.End) (sinks.Info, error) {
	if w.ended {
		return sinks.Info{}, errors.New("the object has ended")
	}
	err := w.err
	if err == nil {
		err = w.pending()
	}
	if err == nil && w.written != end.SizeBytes {
		err = fmt.Errorf("sink %s: commit: %d bytes were written, %d are to be committed: %w", w.r.p.name, w.written, end.SizeBytes, sinks.ErrShort)
	}
	if err != nil {
		w.err = err
		return sinks.Info{}, errors.Join(err, w.Abort(ctx))
	}
	i, whole, err := w.commit(ctx, end)
	w.finish(whole)
	return i, err
}

// commit reports also if the transfer has come to its end.
func (w *remoteWriter) commit(ctx context.Context, end sinks.End) (i sinks.Info, whole bool, err error) {
	w.unhook() // its context bounds the writing, this one the commit
	defer context.AfterFunc(ctx, w.cancel)()
	if w.lane != nil {
		if err := w.endLane(ctx); err != nil { // the plugin has not been told to commit
			return i, false, fmt.Errorf("sink %s: commit: %w", w.r.p.name, w.why(err))
		}
	}
	c := &sinkv1.Commit{SizeBytes: end.SizeBytes, Digest: end.Digest}
	_ = w.stream.Send(&sinkv1.WriteRequest{Step: &sinkv1.WriteRequest_Commit{Commit: c}}) // Recv has the error
	_ = w.stream.CloseSend()                                                              // as above
	m, err := w.answer(ctx, "commit")
	var told *remoteError
	switch {
	case errors.As(err, &told):
		return i, w.drained(ctx), err
	case err != nil:
		return i, false, fmt.Errorf("%w: %w", err, sinks.ErrUnknown)
	}
	if i, err = w.done(m.GetDone(), end); err != nil {
		return sinks.Info{}, false, fmt.Errorf("sink %s: commit: %w: %w", w.r.p.name, err, sinks.ErrUnknown)
	}
	return i, w.drained(ctx), nil
}

func (w *remoteWriter) done(m *sinkv1.Info, end sinks.End) (sinks.Info, error) {
	i, err := infoOf(w.key, m)
	if err == nil && i.SizeBytes != -1 && i.SizeBytes != end.SizeBytes {
		err = answer("it has stored %d bytes, it was given %d", i.SizeBytes, end.SizeBytes)
	}
	return i, err
}

// endLane writes the end of the transfer into the pipe. Only the end of ctx, or of
// the call, keeps it from that: after a failure the plugin goes on to read.
func (w *remoteWriter) endLane(ctx context.Context) error {
	defer context.AfterFunc(ctx, w.wake)()
	for {
		_ = w.lane.file.SetWriteDeadline(time.Time{}) // it is closed if this fails
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.over:
			return w.why(io.ErrClosedPipe)
		default:
		}
		err := w.lane.writer.end()
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}

// drained waits for the end of the call, which is near.
func (w *remoteWriter) drained(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, w.r.p.time.tidy)
	defer cancel()
	for {
		select {
		case <-w.answers:
		case <-w.over:
			return errors.Is(w.callErr, io.EOF)
		case <-ctx.Done():
			return false
		}
	}
}

// Abort has the plugin give up. One that does not answer in time is ended; if ctx is
// cancelled it is left to clean up.
func (w *remoteWriter) Abort(ctx context.Context) error {
	if w.ended {
		return nil
	}
	w.unhook()
	patience, cancel := context.WithTimeoutCause(ctx, w.r.p.time.abort, errors.New("it does not answer"))
	defer cancel()
	err := w.abort(patience)
	if err != nil && errors.Is(patience.Err(), context.DeadlineExceeded) {
		w.r.p.kill()
	}
	w.finish(err == nil)
	return err
}

func (w *remoteWriter) abort(ctx context.Context) error {
	defer context.AfterFunc(ctx, w.cancel)()
	stuck := w.lane == nil && w.ctx.Err() != nil // the word may be behind data that nobody takes
	if stuck {
		defer time.AfterFunc(w.r.p.time.tidy, w.cancel).Stop() // the plugin takes it for an abort
	}
	_ = w.stream.Send(&sinkv1.WriteRequest{Step: &sinkv1.WriteRequest_Abort{Abort: &sinkv1.Abort{}}}) // Recv has the error
	_ = w.stream.CloseSend()                                                                          // as above
	if w.lane != nil {
		if err := w.endLane(ctx); err != nil {
			return fmt.Errorf("sink %s: abort: %w", w.r.p.name, w.why(err))
		}
	}
	for {
		m, err := w.answer(ctx, "abort")
		var told *remoteError
		switch {
		case errors.As(err, &told): // it failed before it heard of the abort
		case err != nil && stuck && ctx.Err() == nil && !w.r.p.gone():
			return nil
		case err != nil:
			return err
		case m.GetAborted() != nil:
			w.drained(ctx)
			return failed(m.GetAborted().GetFailure())
		default:
			return w.r.wrong("abort", answer("%T", m.GetStep()))
		}
	}
}

// finish ends the use of the call and of the pipe.
func (w *remoteWriter) finish(whole bool) {
	w.ended = true
	w.unhook()
	w.cancel()
	w.leave(whole)
}
