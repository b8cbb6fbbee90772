// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vmstream/vmstream/plugins/internal/sinkv1"
	"github.com/vmstream/vmstream/sinks"
)

// maxReaders bounds the objects that are open for reading ranges.
const maxReaders = 256

type readServer = grpc.ServerStreamingServer[sinkv1.ReadResponse]

// openReader is an object that is read at any offset.
type openReader struct {
	sinks.RangeReader
	cancel context.CancelFunc
	busy   sync.WaitGroup
}

func (r *openReader) close() error {
	r.cancel()
	r.busy.Wait()
	return r.RangeReader.Close()
}

// Read sends an object.
func (s *server) Read(m *sinkv1.ReadRequest, stream readServer) error {
	sink, err := s.opened()
	if err != nil {
		return err
	}
	r, i, err := sink.Open(stream.Context(), string(m.GetKey()))
	if err != nil {
		return stream.Send(readFailure(err))
	}
	err = s.send(stream, r, &sinkv1.Opened{Info: infoMessage(i)}, m.GetPipe(), func() bool { return true })
	return errors.Join(err, r.Close())
}

// OpenReader opens an object.
func (s *server) OpenReader(ctx context.Context, m *sinkv1.OpenReaderRequest) (*sinkv1.OpenReaderResponse, error) {
	sink, err := s.opened()
	if err != nil {
		return nil, err
	}
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx)) // it outlives the call
	stop := context.AfterFunc(ctx, cancel)
	r, err := sink.OpenAt(inner, string(m.GetKey()))
	stop()
	if err != nil {
		cancel()
		return &sinkv1.OpenReaderResponse{Failure: failure(err)}, nil
	}
	open := &openReader{RangeReader: r, cancel: cancel}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.readers) >= maxReaders {
		return nil, errors.Join(status.Errorf(codes.FailedPrecondition, "%d objects are open", len(s.readers)), open.close())
	}
	s.next++
	s.readers[s.next] = open
	return &sinkv1.OpenReaderResponse{Reader: s.next, Info: infoMessage(r.Info())}, nil
}

// ReadAt sends a range.
func (s *server) ReadAt(m *sinkv1.ReadAtRequest, stream readServer) error {
	if m.GetOffset() < 0 || m.GetLengthBytes() < 0 {
		return status.Errorf(codes.InvalidArgument, "%d bytes at %d", m.GetLengthBytes(), m.GetOffset())
	}
	s.mu.Lock()
	r := s.readers[m.GetReader()]
	if r != nil {
		r.busy.Add(1)
	}
	s.mu.Unlock()
	if r == nil {
		return status.Error(codes.NotFound, "no such reader")
	}
	defer r.busy.Done()
	section := &rangeOf{r: r, at: m.GetOffset(), left: m.GetLengthBytes()}
	return s.send(stream, section, &sinkv1.Opened{}, m.GetPipe(), func() bool { return section.eof })
}

// rangeOf reads a range, and knows if the object has ended in it.
type rangeOf struct {
	r        io.ReaderAt
	at, left int64
	eof      bool
}

func (x *rangeOf) Read(p []byte) (int, error) {
	if x.left == 0 || x.eof {
		return 0, io.EOF
	}
	n, err := x.r.ReadAt(p[:min(int64(len(p)), x.left)], x.at)
	x.at, x.left = x.at+int64(n), x.left-int64(n)
	if errors.Is(err, io.EOF) {
		x.eof = true
	}
	if n > 0 && (err == nil || x.eof) {
		return n, nil
	}
	return n, err
}

// CloseReader closes an object.
func (s *server) CloseReader(_ context.Context, m *sinkv1.CloseReaderRequest) (*sinkv1.CloseReaderResponse, error) {
	s.mu.Lock()
	r := s.readers[m.GetReader()]
	delete(s.readers, m.GetReader())
	s.mu.Unlock()
	if r == nil {
		return &sinkv1.CloseReaderResponse{}, nil
	}
	return &sinkv1.CloseReaderResponse{Failure: failure(r.close())}, nil
}

func readFailure(err error) *sinkv1.ReadResponse {
	return &sinkv1.ReadResponse{Step: &sinkv1.ReadResponse_Failure{Failure: failure(err)}}
}

// send sends what a reader has, through a pipe if the host offers one. What it returns is
// an error of the call.
func (s *server) send(stream readServer, r io.Reader, opened *sinkv1.Opened, pipe uint32, eof func() bool) error {
	var l *lane
	if pipe > 0 && int(pipe) <= len(s.out) {
		l = s.out[pipe-1].take()
	}
	opened.Pipe = l != nil
	if err := stream.Send(&sinkv1.ReadResponse{Step: &sinkv1.ReadResponse_Opened{Opened: opened}}); err != nil {
		l.leave(true)
		return err
	}
	var err error
	if l != nil {
		var whole bool
		whole, err = sendLane(stream.Context(), l, r)
		l.leave(whole)
	} else {
		err = sendMessages(stream, r)
	}
	var call *callError
	switch {
	case errors.As(err, &call):
		return call.err
	case err != nil:
		return stream.Send(readFailure(err))
	}
	return stream.Send(&sinkv1.ReadResponse{Step: &sinkv1.ReadResponse_End{End: &sinkv1.End{Eof: eof()}}})
}

// callError is an error of the call, and not of the sink.
type callError struct{ err error }

func (e *callError) Error() string { return e.err.Error() }

// sendLane sends through the pipe, and reports if the transfer has an end there.
func sendLane(ctx context.Context, l *lane, r io.Reader) (whole bool, err error) {
	buf := make([]byte, maxFrameBytes)
	for err == nil && ctx.Err() == nil {
		var n int
		n, err = r.Read(buf)
		if _, failed := l.writer.Write(buf[:n]); failed != nil {
			return false, &callError{failed}
		}
	}
	if end := l.writer.end(); end != nil {
		return false, &callError{end}
	}
	switch {
	case errors.Is(err, io.EOF):
		return true, nil
	case err == nil:
		err = &callError{ctx.Err()}
	}
	return true, err
}

func sendMessages(stream readServer, r io.Reader) error {
	buf := make([]byte, dataBytes)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := stream.Send(&sinkv1.ReadResponse{Step: &sinkv1.ReadResponse_Data{Data: buf[:n]}}); err != nil {
				return &callError{err}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
