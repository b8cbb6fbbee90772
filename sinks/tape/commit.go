// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmstream/vmstream/sinks"
)

// Commit writes what is left, a filemark, and the trailer with which the stream is
// there.
func (w *writer) Commit(ctx context.Context, end sinks.End) (sinks.Info, error) {
	err := context.Cause(ctx)
	switch {
	case w.ended:
		return sinks.Info{}, errEnded
	case err == nil && end.SizeBytes != w.written:
		err = fmt.Errorf("%d bytes written, and there should be %d: %w", w.written, end.SizeBytes, sinks.ErrShort)
	}
	if err != nil {
		return sinks.Info{}, errors.Join(w.failure(err), w.Abort(ctx))
	}
	stop := context.AfterFunc(ctx, func() { w.cancel(context.Cause(ctx)) })
	w.finish()
	stop()
	if w.err == nil {
		w.err = w.commit(end)
	}
	if w.v != nil {
		w.s.tellAlerts(w.v.drive)
	}
	if w.err != nil {
		return sinks.Info{}, errors.Join(w.failure(w.err), w.Abort(ctx))
	}
	w.ended = true
	w.cancel(errEnded)
	w.s.log.Debug("stored", "key", w.entry.Key, "volume", w.v.label.Volume, "file", w.entry.Parts[len(w.entry.Parts)-1].File,
		"stops", w.q.stopped())
	return w.entry.info(), w.s.done(w.v, nil)
}

// finish has the goroutine write what is left, and waits for it.
func (w *writer) finish() {
	if len(w.chunk) > 0 {
		c := w.chunk
		if w.fixed { // padded with zeros, which are behind the end of a tar
			n := (w.block - len(c)%w.block) % w.block
			c = c[:len(c)+n]
			clear(c[len(c)-n:])
		}
		w.q.put(&w.q.full, c)
	}
	w.chunk = nil
	w.q.end()
	<-w.running
	if w.err == nil {
		w.err = context.Cause(w.ctx)
	}
}

// commit ends the file and writes the trailer.
func (w *writer) commit(end sinks.End) error {
	w.part = w.written // without what it was padded with
	for _, p := range w.entry.Parts {
		w.part -= p.Bytes
	}
	if err := w.endPart(); err != nil {
		return err
	}
	w.entry.Size, w.entry.Digest = w.written, end.Digest
	return w.v.writeTrailer(w.trailer())
}

// Abort ends the writer. What it has written is cut off, if the drive still does what
// it is told; it has no trailer, and is no stream.
func (w *writer) Abort(context.Context) error {
	if w.ended {
		return nil
	}
	w.ended = true
	w.cancel(errEnded)
	<-w.running
	if w.v == nil { // lost while the volume was changed
		return w.s.done(nil, nil)
	}
	if err := w.cut(); err != nil {
		w.s.log.Debug("what was not committed could not be cut off", "error", err)
		return w.s.done(nil, w.v.drive)
	}
	return w.s.done(w.v, nil)
}

// cut has the tape end, but for a filemark, where the stream began.
func (w *writer) cut() error {
	if w.blocks == 0 && len(w.entry.Parts) == 0 {
		return nil
	}
	if err := w.v.toEnd(); err != nil {
		return err
	}
	return w.v.mark()
}
