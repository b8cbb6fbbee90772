// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream"
)

// peekOpening reads a stream up to its opening record, and returns that and a
// reader that begins with the stream's first byte.
func peekOpening(ctx context.Context, r io.Reader) (*stream.Opening, io.Reader, error) {
	p := &replay{r: r}
	s := &peekSink{}
	_, err := stream.Read(ctx, &cancelReader{ctx: ctx, r: p}, s, stream.ReadOptions{Workers: 1})
	if s.opening == nil {
		return nil, nil, err // there is one: a stream without an opening record is none
	}
	p.rewind()
	return s.opening, p, nil
}

var errPeeked = errors.New("the opening record has been read")

// peekSink takes the opening record and nothing else.
type peekSink struct{ opening *stream.Opening }

func (s *peekSink) Begin(o *stream.Opening) error {
	s.opening = o
	return errPeeked
}

func (s *peekSink) File(*stream.FileInfo) (io.WriteCloser, error) { return nil, errPeeked }
func (s *peekSink) Disk(int) (disk.Writer, error)                 { return nil, errPeeked }

// replay keeps what is read until it is told to begin again. A read that is on
// its way meanwhile belongs to what is kept: the lock is held by each.
type replay struct {
	r io.Reader

	mu    sync.Mutex
	kept  []byte
	again bool
}

func (p *replay) rewind() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.again = true
}

func (p *replay) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.again && len(p.kept) > 0 {
		n := copy(b, p.kept)
		p.kept = p.kept[n:]
		return n, nil
	}
	n, err := p.r.Read(b)
	if !p.again {
		p.kept = append(p.kept, b[:n]...)
	}
	return n, err
}
