// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vmstream/vmstream/plugins/internal/sinkv1"
	"github.com/vmstream/vmstream/sinks"
)

// server is a driver's side of the protocol.
type server struct {
	sinkv1.UnimplementedSinkServer
	driver sinks.Driver
	log    *slog.Logger
	in     *lane
	out    lanes
	stderr *os.File // of the process, nil in tests

	mu      sync.Mutex
	sink    sinks.Sink         // the one that was opened
	cancel  context.CancelFunc // of what it was opened with
	closed  bool
	readers map[uint64]*openReader
	next    uint64

	writers sync.WaitGroup // Close waits for what they clean up
}

// Describe tells what the driver says of itself.
func (s *server) Describe(context.Context, *sinkv1.DescribeRequest) (*sinkv1.DescribeResponse, error) {
	return descriptionMessage(s.driver.Describe()), nil
}

// Open opens the target of this process.
func (s *server) Open(ctx context.Context, m *sinkv1.OpenRequest) (*sinkv1.OpenResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sink != nil {
		return nil, status.Error(codes.FailedPrecondition, "a target was opened before")
	}
	if s.stderr != nil {
		s.settle()
	}
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx)) // the sink outlives the call
	stop := context.AfterFunc(ctx, cancel)
	sink, key, err := s.driver.Open(inner, sinks.Target{Scheme: m.GetScheme(), Rest: string(m.GetRest())}, s.log)
	stop()
	if err != nil {
		cancel()
		return &sinkv1.OpenResponse{Failure: failure(err)}, nil
	}
	s.sink, s.cancel = sink, cancel
	return &sinkv1.OpenResponse{Key: []byte(key), Capabilities: capabilitiesMessage(sink.Capabilities())}, nil
}

// settle undoes what go-plugin and the host have done to the process and a sink has
// no use for: a stderr that loses the last words, variables that programs which it
// starts would inherit.
func (s *server) settle() {
	os.Stderr = s.stderr
	for _, name := range handshakeVariables {
		_ = os.Unsetenv(name) // it may not be there
	}
}

// opened returns the sink.
func (s *server) opened() (sinks.Sink, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sink == nil || s.closed {
		return nil, status.Error(codes.FailedPrecondition, "no target is open")
	}
	return s.sink, nil
}

// Close closes the sink when the writers that were broken off have cleaned up.
func (s *server) Close(context.Context, *sinkv1.CloseRequest) (*sinkv1.CloseResponse, error) {
	sink, err := s.opened()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.closed = true
	readers := s.readers
	s.readers = nil
	s.mu.Unlock()
	var all error
	for _, r := range readers {
		all = errors.Join(all, r.close())
	}
	s.writers.Wait()
	all = errors.Join(all, sink.Close())
	s.cancel()
	return &sinkv1.CloseResponse{Failure: failure(all)}, nil
}

// Stat tells of an object.
func (s *server) Stat(ctx context.Context, m *sinkv1.StatRequest) (*sinkv1.StatResponse, error) {
	sink, err := s.opened()
	if err != nil {
		return nil, err
	}
	i, err := sink.Stat(ctx, string(m.GetKey()))
	if err != nil {
		return &sinkv1.StatResponse{Failure: failure(err)}, nil
	}
	return &sinkv1.StatResponse{Info: infoMessage(i)}, nil
}

// Delete removes an object.
func (s *server) Delete(ctx context.Context, m *sinkv1.DeleteRequest) (*sinkv1.DeleteResponse, error) {
	sink, err := s.opened()
	if err != nil {
		return nil, err
	}
	return &sinkv1.DeleteResponse{Failure: failure(sink.Delete(ctx, string(m.GetKey())))}, nil
}

// RemoveOrphan removes what a writer has left.
func (s *server) RemoveOrphan(ctx context.Context, m *sinkv1.RemoveOrphanRequest) (*sinkv1.RemoveOrphanResponse, error) {
	sink, err := s.opened()
	if err != nil {
		return nil, err
	}
	o, err := orphan(m.GetOrphan())
	if err == nil {
		err = sink.RemoveOrphan(ctx, o)
	}
	return &sinkv1.RemoveOrphanResponse{Failure: failure(err)}, nil
}

// List tells of objects.
func (s *server) List(m *sinkv1.ListRequest, stream grpc.ServerStreamingServer[sinkv1.ListResponse]) error {
	sink, err := s.opened()
	if err != nil {
		return err
	}
	return batched(sink.List(stream.Context(), string(m.GetPrefix())),
		func(i sinks.Info) (*sinkv1.Info, int) { return infoMessage(i), len(i.Key) + len(i.Version) },
		func(batch []*sinkv1.Info, f *sinkv1.Failure) error {
			return stream.Send(&sinkv1.ListResponse{Infos: batch, Failure: f})
		})
}

// Orphans tells of what writers have left behind.
func (s *server) Orphans(m *sinkv1.OrphansRequest, stream grpc.ServerStreamingServer[sinkv1.OrphansResponse]) error {
	sink, err := s.opened()
	if err != nil {
		return err
	}
	return batched(sink.Orphans(stream.Context(), string(m.GetPrefix())),
		func(o sinks.Orphan) (*sinkv1.Orphan, int) { return orphanMessage(o), len(o.Key) + len(o.ID) },
		func(batch []*sinkv1.Orphan, f *sinkv1.Failure) error {
			return stream.Send(&sinkv1.OrphansResponse{Orphans: batch, Failure: f})
		})
}

// Bounds of what is sent at once: the first one is at most 1000, the texts of a
// message stay far below what a message may have.
const (
	batchCount = 500
	batchBytes = 256 << 10
)

// batched sends many small things in few messages, and a failure in the last.
func batched[T, M any](all iter.Seq2[T, error], message func(T) (M, int), send func([]M, *sinkv1.Failure) error) error {
	var batch []M
	bytes := 0
	for one, err := range all {
		if err != nil {
			return send(batch, failure(err))
		}
		m, size := message(one)
		batch, bytes = append(batch, m), bytes+size
		if len(batch) == batchCount || bytes >= batchBytes {
			if err := send(batch, nil); err != nil {
				return err
			}
			batch, bytes = nil, 0
		}
	}
	if len(batch) == 0 {
		return nil
	}
	return send(batch, nil)
}

// wrongStep is for a host that does not keep to the protocol.
func wrongStep(step any) error {
	return status.Error(codes.InvalidArgument, fmt.Sprintf("%T was not to be sent now", step))
}
