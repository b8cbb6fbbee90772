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
	reader io.ReadCloser     // nil until it is needed
}

// OpenStored opens an object of a sink. ctx bounds all reads.
func OpenStored(ctx context.Context, s sinks.Sink, key string) (*StoredInput, error) {
	in := &StoredInput{ctx: ctx}
	var err error
	switch can := s.Capabilities(); {
	case can.Range:
		in.ranges, err = s.OpenAt(ctx, key)
	case can.Read:
		in.reader, _, err = s.Open(ctx, key)
	default:
		err = fmt.Errorf("this sink cannot read what it has stored: %w", sinks.ErrUnsupported)
	}
	if err != nil {
		return nil, err
	}
	return in, nil
}

// Read reads ahead, a bounded number of bytes, where the sink has ranges.
func (s *StoredInput) Read(p []byte) (int, error) {
	if s.reader == nil {
		s.reader = sinks.Prefetch(s.ctx, &tail{s.ranges, 0}, sinks.PrefetchOptions{})
	}
	return s.reader.Read(p)
}

// from reads on at an offset.
func (s *StoredInput) from(offset int64) (io.Reader, error) {
	var err error
	if s.reader != nil {
		err = s.reader.Close()
	}
	s.reader = sinks.Prefetch(s.ctx, &tail{s.ranges, offset}, sinks.PrefetchOptions{})
	return s.reader, err
}

// Close ends the reading.
func (s *StoredInput) Close() error {
	var errs []error
	if s.reader != nil {
		errs = append(errs, s.reader.Close())
	}
	if s.ranges != nil {
		errs = append(errs, s.ranges.Close())
	}
	return errors.Join(errs...)
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
