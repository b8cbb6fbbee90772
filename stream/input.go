// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/vmstream/vmstream/stream/codec"
)

// inputBuffer is as much as the codec's reader wants.
const inputBuffer = 256 << 10

// input is what a stream, or several one behind the other, are read from.
type input struct {
	opt    *ReadOptions
	series bool        // other streams may follow the first
	file   *fileReader // nil if the input can be read in order only
	buf    *bufio.Reader
	codec  *codec.Reader // of the stream being read; nil before the first
}

func newInput(r io.Reader, o *ReadOptions) *input {
	in := &input{opt: o}
	if o.File != nil {
		in.file = &fileReader{r: o.File.R, pos: o.File.Offset}
		r = in.file
	}
	in.buffer(r)
	return in
}

func (in *input) buffer(r io.Reader) {
	in.buf = bufio.NewReaderSize(&countingReader{r: r, n: &in.opt.Counters.Out}, inputBuffer)
}

// jump goes on at another byte of the stream, with which a frame begins. All readers
// are new: a codec may be reading ahead from the old ones still.
func (in *input) jump(offset int64) error {
	in.close()
	if in.file != nil {
		in.file = &fileReader{r: in.file.r, pos: in.opt.File.Offset + offset}
		in.buffer(in.file)
	} else {
		r, err := in.opt.Part.From(offset)
		if err != nil {
			return err
		}
		in.buffer(r)
	}
	var err error
	in.codec, err = codec.NewTailReader(in.buf, in.opt.Workers)
	return err
}

// begin finds the codec of a stream, unless it goes on with that of the one before.
func (in *input) begin() error {
	if in.codec != nil {
		return nil
	}
	open := codec.NewSeriesReader
	if !in.series {
		open = func(r *bufio.Reader, workers int) (*codec.Reader, error) { return codec.NewReader(r, workers) }
	}
	var err error
	in.codec, err = open(in.buf, in.opt.Workers)
	return err
}

// tar returns what the tar is read from.
func (in *input) tar() io.Reader {
	if raw := in.codec.Raw(); raw != nil {
		return raw
	}
	return in.codec
}

// skipper returns what passes over content, nil if it has to be read.
func (in *input) skipper() *skipper {
	raw := in.codec.Raw()
	if raw == nil || in.file == nil {
		return nil
	}
	return &skipper{file: in.file, buffered: raw, count: &in.opt.Counters.Out}
}

// end says that a stream ends here. It returns the reader that knows its frames,
// and reports if anything follows.
func (in *input) end() (frames *codec.Reader, more bool, err error) {
	frames = in.codec
	if frames.Raw() == nil {
		if more, err = frames.Boundary(); more || err != nil {
			return frames, more, err
		}
	}
	in.close()
	_, err = in.buf.Peek(1)
	if errors.Is(err, io.EOF) {
		return frames, false, nil
	}
	return frames, true, err
}

// readWhole reads n bytes. It allocates no more than twice what there is: an
// index with digests may be long, and a short input may say that it has one.
func readWhole(r io.Reader, n int64) ([]byte, error) {
	const atOnce = 16 << 20
	if n <= atOnce {
		b := make([]byte, n)
		_, err := io.ReadFull(r, b)
		return b, eofUnexpected(err)
	}
	var b bytes.Buffer
	_, err := io.CopyN(&b, r, n)
	return b.Bytes(), eofUnexpected(err)
}

func (in *input) close() {
	if in.codec != nil {
		_ = in.codec.Close() // only reads
		in.codec = nil
	}
}
