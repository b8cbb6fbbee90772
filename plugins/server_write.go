// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/vmstream/vmstream/plugins/internal/sinkv1"
	"github.com/vmstream/vmstream/sinks"
)

// abortTime is how long a writer may clean up that was broken off.
const abortTime = time.Minute

type writeServer = grpc.BidiStreamingServer[sinkv1.WriteRequest, sinkv1.WriteResponse]

// incoming is an object on its way into the sink.
type incoming struct {
	s      *server
	stream writeServer
	writer sinks.Writer
	ctx    context.Context // of Create; ends with an abort
	cancel context.CancelFunc
	lane   *lane // nil: data comes in messages

	steps chan *sinkv1.WriteRequest // what the host sends, closed when the call breaks
	lost  bool                      // writing has failed; data is dropped

	mu   sync.Mutex
	pipe *lane // lane, while it is ours
}

// Write takes an object.
func (s *server) Write(stream writeServer) error {
	sink, err := s.opened()
	if err != nil {
		return err
	}
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	c := m.GetCreate()
	if c == nil {
		return wrongStep(m.GetStep())
	}
	s.writers.Add(1)
	defer s.writers.Done()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	w, err := sink.Create(ctx, string(c.GetKey()), sinks.CreateOptions{
		Overwrite: c.GetOverwrite(), Keep: c.GetKeep(), Resume: c.GetResume(), SizeHintBytes: c.GetSizeHintBytes(), ID: c.GetId(),
	})
	if err != nil {
		return stream.Send(failureStep(err))
	}
	in := &incoming{s: s, stream: stream, writer: w, ctx: ctx, cancel: cancel, steps: make(chan *sinkv1.WriteRequest)}
	if c.GetPipe() {
		in.lane = s.in.take()
		in.pipe = in.lane
	}
	return in.serve()
}

func failureStep(err error) *sinkv1.WriteResponse {
	return &sinkv1.WriteResponse{Step: &sinkv1.WriteResponse_Failure{Failure: failure(err)}}
}

// serve takes data and the host's last word.
func (in *incoming) serve() error {
	ended := false
	defer func() {
		if !ended {
			_ = in.abort() // there is nobody to tell
		}
	}()
	ready := &sinkv1.Ready{Pipe: in.lane != nil}
	if err := in.stream.Send(&sinkv1.WriteResponse{Step: &sinkv1.WriteResponse_Ready{Ready: ready}}); err != nil {
		in.leave(true)
		return err
	}
	done := make(chan struct{})
	defer close(done)
	go in.receive(done)
	last, err := in.data()
	if err != nil {
		return err
	}
	commit := last.GetCommit()
	if commit == nil && last.GetAbort() == nil {
		return wrongStep(last.GetStep())
	}
	if commit == nil || in.lost {
		ended = true
		aborted := &sinkv1.Aborted{Failure: failure(in.abort())}
		return in.stream.Send(&sinkv1.WriteResponse{Step: &sinkv1.WriteResponse_Aborted{Aborted: aborted}})
	}
	i, err := in.writer.Commit(in.stream.Context(), sinks.End{SizeBytes: commit.GetSizeBytes(), Digest: commit.GetDigest()})
	if err != nil {
		return in.stream.Send(failureStep(err))
	}
	ended = true
	return in.stream.Send(&sinkv1.WriteResponse{Step: &sinkv1.WriteResponse_Done{Done: infoMessage(i)}})
}

func (in *incoming) abort() error {
	in.cancel()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(in.ctx), abortTime)
	defer cancel()
	return in.writer.Abort(ctx)
}

// receive takes what the host sends. An abort ends a Write that waits for the sink;
// the end of the call one that waits for the pipe, too.
func (in *incoming) receive(done <-chan struct{}) {
	defer close(in.steps)
	for {
		m, err := in.stream.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) { // or the host has said all that it has to say
				in.cancel()
				in.wake()
			}
			return
		}
		if m.GetAbort() != nil {
			in.cancel()
		}
		select {
		case in.steps <- m:
		case <-done:
			return
		}
	}
}

// wake ends a read that waits for the pipe.
func (in *incoming) wake() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.pipe != nil {
		_ = in.pipe.file.SetReadDeadline(longPast) // it is closed if this fails
	}
}

// leave gives the pipe back.
func (in *incoming) leave(whole bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.pipe.leave(whole)
	in.pipe = nil
}

var errBroken = errors.New("the host has broken the call")

// data writes all data, and returns what the host says behind it.
func (in *incoming) data() (*sinkv1.WriteRequest, error) {
	if in.lane != nil {
		err := in.pump()
		in.leave(err == nil)
		if err != nil {
			return nil, err
		}
	}
	for m := range in.steps {
		d, ok := m.GetStep().(*sinkv1.WriteRequest_Data)
		if !ok {
			return m, nil
		}
		if in.lane != nil {
			return nil, wrongStep(m.GetStep())
		}
		if err := in.write(d.Data); err != nil {
			return nil, err
		}
	}
	return nil, errBroken
}

// pump writes what comes through the pipe.
func (in *incoming) pump() error {
	buf := make([]byte, maxFrameBytes)
	for {
		n, err := in.lane.reader.Read(buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = in.write(buf[:n])
		}
		if err != nil {
			return err
		}
	}
}

// write writes a piece. A failure of the sink is told, and the rest dropped; the
// error is that of the call.
func (in *incoming) write(p []byte) error {
	if in.lost || in.ctx.Err() != nil {
		return in.stream.Context().Err() // after an abort data is dropped
	}
	if _, err := in.writer.Write(p); err != nil && in.ctx.Err() == nil {
		in.lost = true
		return in.stream.Send(failureStep(err))
	} else if err != nil {
		in.lost = true
	}
	return nil
}
