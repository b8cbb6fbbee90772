// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/stream"
)

// StoredInput is a stream in a sink. It is read in order by one goroutine.
type StoredInput struct {
	ctx    context.Context
	ranges sinks.RangeReader // nil if the sink has none
	first  io.ReadCloser     // of Read; nil until it is needed
	later  io.ReadCloser     // the last one of from; nil before that
}

// OpenStored opens an object of a sink. ctx bounds all reads.
func OpenStored(ctx context.Context, s sinks.Sink, key string) (*StoredInput, error) {
	in := &StoredInput{ctx: ctx}
	var err error
	switch can := s.Capabilities(); {
	case can.Range:
		in.ranges, err = s.OpenAt(ctx, key)
	case can.Read:
		in.first, _, err = s.Open(ctx, key)
	default:
		err = fmt.Errorf("this sink cannot read what it has stored: %w", sinks.ErrUnsupported)
	}
	if err != nil {
		return nil, err
	}
	return in, nil
}

// Read reads ahead, a bounded number of bytes, where the sink has ranges. It fails once
// reading has gone on elsewhere.
func (s *StoredInput) Read(p []byte) (int, error) {
	if s.first == nil {
		s.first = sinks.Prefetch(s.ctx, &tail{s.ranges, 0}, sinks.PrefetchOptions{})
	}
	return s.first.Read(p)
}

// from reads on at an offset. Who is still reading before that, ahead of what is needed,
// gets an error, and nothing of what is read from there.
func (s *StoredInput) from(offset int64) (io.Reader, error) {
	err := s.end()
	s.later = sinks.Prefetch(s.ctx, &tail{s.ranges, offset}, sinks.PrefetchOptions{})
	return s.later, err
}

// end ends what is being read.
func (s *StoredInput) end() error {
	switch {
	case s.later != nil:
		return s.later.Close()
	case s.first != nil:
		return s.first.Close()
	}
	return nil
}

// Close ends the reading.
func (s *StoredInput) Close() error {
	err := s.end()
	if s.ranges != nil {
		err = errors.Join(err, s.ranges.Close())
	}
	return err
}

// tail is the end of an object, from an offset on. Its owner closes the object.
type tail struct {
	sinks.RangeReader
	offset int64
}

func (t *tail) Info() sinks.Info {
	info := t.RangeReader.Info()
	if info.SizeBytes >= 0 {
		info.SizeBytes = max(info.SizeBytes-t.offset, 0)
	}
	return info
}

func (t *tail) ReadAt(p []byte, offset int64) (int, error) {
	return t.RangeReader.ReadAt(p, t.offset+offset)
}

func (t *tail) Close() error { return nil }

// FindIndex reads the two ends of the stream, and nothing between them.
func (s *StoredInput) FindIndex() (*stream.Result, error) {
	size, err := s.size()
	if err != nil {
		return nil, err
	}
	return stream.FindIndex(s.ranges, size)
}

// Parent is [OpenParent] for a stream or an index in a sink; name is for errors.
func (s *StoredInput) Parent(name string) (*stream.Index, error) {
	size, err := s.size()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return parentIn(s.ranges, size, name)
}

func (s *StoredInput) size() (int64, error) {
	if s.ranges == nil {
		return 0, fmt.Errorf("this sink reads only from the first byte to the last: %w", sinks.ErrUnsupported)
	}
	if n := s.ranges.Info().SizeBytes; n >= 0 {
		return n, nil
	}
	return 0, errors.New("the sink does not tell how long the object is")
}
