// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"context"
	"io"
	"os"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/readahead"
	"github.com/vmstream/vmstream/internal/writeback"
	"github.com/vmstream/vmstream/stream"
)

// Backup writes src to w as o says. Name and Consistency come from the source
// unless o has them.
// The stream is no backup if the disks have not stood still: see
// [snapshot.Snapshot.Check].
func Backup(ctx context.Context, w io.Writer, src *Source, o stream.Options) (*stream.Result, error) {
	o.Name = src.Name
	if o.Consistency == "" {
		o.Consistency = src.Consistency
	}
	o.Confirm = src.Snapshot.Check
	return stream.Write(ctx, output(ctx, w), src.Disks, src.Files, o)
}

// cancelWriter returns from a write that hangs once the context is done: who
// reads a pipe may have stopped reading without closing it.
type cancelWriter struct {
	ctx      context.Context
	w        io.Writer
	inPieces bool // of writePiece bytes
}

// writePiece is how much a file gets at once; see [writeback.PieceBytes]. A pipe is a
// little slower with pieces.
const writePiece = writeback.PieceBytes

// output makes an output that a cancelled context interrupts. The sinks of a storage
// heed the context themselves, and are not to be left behind in a write.
func output(ctx context.Context, w io.Writer) io.Writer {
	if s, ok := w.(*Storage); ok {
		return s
	}
	return newCancelWriter(ctx, w)
}

func newCancelWriter(ctx context.Context, w io.Writer) *cancelWriter {
	c := &cancelWriter{ctx: ctx, w: w}
	if f, _ := regularFile(w); f != nil {
		c.inPieces = true
	}
	return c
}

func (c *cancelWriter) Write(p []byte) (int, error) {
	return abandon(c.ctx, func() (int, error) { return c.pieces(p) })
}

func (c *cancelWriter) pieces(p []byte) (int, error) {
	if !c.inPieces {
		return c.w.Write(p)
	}
	return writeback.Pieces(p, func(p []byte, done int) (int, error) {
		if done > 0 && c.ctx.Err() != nil { // nobody waits for the rest
			return 0, context.Cause(c.ctx)
		}
		return c.w.Write(p)
	})
}

// cancelReader is the same for reading.
type cancelReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancelReader) Read(p []byte) (int, error) {
	return abandon(c.ctx, func() (int, error) { return c.r.Read(p) })
}

// abandon runs do and leaves it behind when the context ends first. The
// process is about to exit then.
func abandon(ctx context.Context, do func() (int, error)) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, context.Cause(ctx)
	}
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := do()
		done <- result{n, err}
	}()
	select {
	case r := <-done:
		return r.n, r.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// ReadStream is stream.Read for an input that a cancelled context interrupts.
// A regular file is read at any offset; what is open on it stands at its end
// behind a stream that was good.
func ReadStream(ctx context.Context, r io.Reader, sink stream.Sink, o stream.ReadOptions) (*stream.Result, error) {
	var f *os.File
	if f, o.File = fileInput(r); f == nil {
		return stream.Read(ctx, &cancelReader{ctx: ctx, r: r}, sink, o)
	}
	res, err := stream.Read(ctx, r, sink, o)
	if err == nil {
		_, err = f.Seek(0, io.SeekEnd)
	}
	return res, err
}

// ReadSeries is the same for stream.ReadSeries.
func ReadSeries(ctx context.Context, r io.Reader, sink stream.SeriesSink, o stream.ReadOptions) ([]*stream.Result, error) {
	var f *os.File
	if f, o.File = fileInput(r); f == nil {
		return stream.ReadSeries(ctx, &cancelReader{ctx: ctx, r: r}, sink, o)
	}
	all, err := stream.ReadSeries(ctx, r, sink, o)
	if err == nil {
		_, err = f.Seek(0, io.SeekEnd)
	}
	return all, err
}

// fileInput returns what is read of r at any offset, and nothing if it is no regular file.
func fileInput(r io.Reader) (*os.File, *stream.FileInput) {
	f, at := regularFile(r)
	if f == nil {
		return nil, nil
	}
	im, err := disk.NewFile(f) // is not closed: f is the caller's
	if err != nil {
		return nil, nil
	}
	return f, &stream.FileInput{R: im, Offset: at}
}

// inputs makes streams that a cancelled context interrupts.
func inputs(ctx context.Context, ins []io.Reader) []io.Reader {
	out := make([]io.Reader, len(ins))
	for i, in := range ins {
		if f, at := regularFile(in); f != nil {
			in = readahead.NewReader(f, at)
		}
		out[i] = &cancelReader{ctx: ctx, r: in}
	}
	return out
}

// Merge is stream.Merge for streams and an output that a cancelled context
// interrupts.
func Merge(ctx context.Context, w io.Writer, ins []io.Reader, o stream.Options) (*stream.Result, error) {
	return stream.Merge(ctx, output(ctx, w), inputs(ctx, ins), o)
}

// regularFile returns r, a reader or writer, if it is a regular file, and where
// it stands.
func regularFile(r any) (*os.File, int64) {
	f, ok := r.(*os.File)
	if !ok {
		return nil, 0
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return nil, 0
	}
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, 0
	}
	return f, at
}
