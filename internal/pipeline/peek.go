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
	_, err := stream.Read(ctx, &cancelReader{ctx: ctx, r: &firstReader{p}}, s, stream.ReadOptions{Workers: 1})
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

// replay gives what a first reader has had of r once more. That one may have a
// read on its way still when it is not listened to any more, and try another:
// what the former brings is kept, the latter gets nothing.
type replay struct {
	r io.Reader

	mu    sync.Mutex // held while r is read
	kept  []byte
	again bool
}

// rewind ends the first reader.
func (p *replay) rewind() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.again = true
}

// Read is that of the second reader.
func (p *replay) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.kept) > 0 {
		n := copy(b, p.kept)
		p.kept = p.kept[n:]
		return n, nil
	}
	return p.r.Read(b)
}

type firstReader struct{ p *replay }

func (f *firstReader) Read(b []byte) (int, error) {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	if f.p.again {
		return 0, errPeeked
	}
	n, err := f.p.r.Read(b)
	f.p.kept = append(f.p.kept, b[:n]...)
	return n, err
}
