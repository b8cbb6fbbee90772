// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/vmstream/vmstream/sinks"
)

type sink struct {
	*options
	log *slog.Logger

	// turn is held by who looks at or changes what follows. It is a channel because
	// who holds it may wait for a tape, and contexts have to be heeded meanwhile.
	turn      chan struct{}
	vol       *volume // the tape in the drive, which stays open; nil if it is not known
	writable  bool    // it is open for writing
	used      string  // by whom the drive is in use; empty: by nobody
	shown     *record // the directory while the drive is in use
	relabeled bool
	closed    bool
}

func newSink(o *options, log *slog.Logger) *sink {
	return &sink{options: o, log: log, turn: make(chan struct{}, 1)}
}

// take waits for the turn. An error is that of the context.
func (s *sink) take(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *sink) give() { <-s.turn }

func (*sink) Capabilities() sinks.Capabilities { return capabilities }

// volume returns the tape in the drive, opened if it is not. The caller has
// the turn.
func (s *sink) volume(ctx context.Context, writing bool) (*volume, error) {
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case s.closed:
		return nil, errors.New("tape: the sink is closed")
	case s.vol != nil && (s.writable || !writing):
		return s.vol, nil
	}
	if err := s.release(); err != nil {
		return nil, err
	}
	d, err := s.openWaiting(ctx, writing, time.Now().Add(s.wait))
	if err != nil {
		return nil, fmt.Errorf("tape: %w", err)
	}
	v, err := inspect(d, s.options)
	if err != nil {
		s.tellAlerts(d)
		return nil, errors.Join(fmt.Errorf("tape: %w", err), d.close())
	}
	s.vol, s.writable = v, writing
	return v, nil
}

// release closes the drive. The caller has the turn.
func (s *sink) release() error {
	v := s.vol
	s.vol = nil
	if v == nil {
		return nil
	}
	return v.drive.close()
}

// claim takes the drive for one writer or reader, which gives it back with done.
func (s *sink) claim(ctx context.Context, writing bool) (*volume, error) {
	if err := s.take(ctx); err != nil {
		return nil, err
	}
	defer s.give()
	if s.used != "" {
		return nil, fmt.Errorf("tape: a stream is being %s: %w", s.used, errBusy)
	}
	v, err := s.volume(ctx, writing)
	if err != nil {
		return nil, err
	}
	s.vol, s.shown, s.used = nil, v.last, "read"
	if writing {
		s.used = "written"
	}
	return v, nil
}

// done gives the drive back, with the volume that is in it now; nil if what is in it
// has to be found out again.
func (s *sink) done(v *volume, d drive) error {
	s.turn <- struct{}{}
	defer s.give()
	s.used, s.shown, s.vol = "", nil, v
	if v == nil && d != nil {
		return d.close()
	}
	return nil
}

// show has directory tell of a record while the drive is in use.
func (s *sink) show(r *record) {
	s.turn <- struct{}{}
	defer s.give()
	s.shown = r
}

// directory returns the newest record of the tape in the drive. It is nil for a blank
// tape.
func (s *sink) directory(ctx context.Context) (*record, error) {
	if err := s.take(ctx); err != nil {
		return nil, err
	}
	defer s.give()
	if s.used != "" && ctx.Err() == nil {
		return s.shown, nil
	}
	v, err := s.volume(ctx, false)
	if err != nil {
		return nil, err
	}
	switch {
	case v.known():
		return v.last, nil
	case v.blank:
		return nil, nil
	}
	return nil, fmt.Errorf("tape: %w; its files are read with file=0, file=1 and so on", v.foreign())
}

var errForeign = errors.New("this tape has no label of vmstream")

func (s *sink) Stat(ctx context.Context, key string) (sinks.Info, error) {
	r, err := s.directory(ctx)
	if err != nil {
		return sinks.Info{}, err
	}
	if r != nil {
		if e := r.committed().named(key, r.Volume); e != nil {
			info := e.info()
			info.Key = key // as it was asked for
			return info, nil
		}
	}
	return sinks.Info{}, s.notThere(key)
}

func (s *sink) notThere(key string) error {
	return fmt.Errorf("tape: %q: %w", key, sinks.ErrNotExist)
}

func (s *sink) List(ctx context.Context, prefix string) iter.Seq2[sinks.Info, error] {
	return func(yield func(sinks.Info, error) bool) {
		r, err := s.directory(ctx)
		if err != nil {
			yield(sinks.Info{}, err)
			return
		}
		if r == nil {
			return
		}
		newest := map[string]entry{}
		for _, e := range r.committed().Streams {
			if strings.HasPrefix(e.Key, prefix) {
				newest[e.Key] = e
			}
		}
		var all []sinks.Info
		for _, e := range newest {
			all = append(all, e.info())
		}
		slices.SortFunc(all, func(a, b sinks.Info) int { return cmp.Compare(a.Key, b.Key) })
		for _, i := range all {
			if !yield(i, nil) {
				return
			}
		}
	}
}

func unsupported(what string) error {
	return fmt.Errorf("tape: no %s: %w", what, sinks.ErrUnsupported)
}

func (*sink) OpenAt(context.Context, string) (sinks.RangeReader, error) {
	return nil, unsupported("ranges")
}

func (*sink) Delete(context.Context, string) error {
	return unsupported("removing of single streams: relabel=1 begins a tape anew")
}

func (*sink) Orphans(context.Context, string) iter.Seq2[sinks.Orphan, error] {
	return func(yield func(sinks.Orphan, error) bool) { yield(sinks.Orphan{}, unsupported("orphans")) }
}

func (*sink) RemoveOrphan(context.Context, sinks.Orphan) error { return unsupported("orphans") }

// Close gives the drive back. The tape stays in it, where it is.
func (s *sink) Close() error {
	s.turn <- struct{}{}
	defer s.give()
	s.closed = true
	return s.release()
}

var _ io.Closer = (*sink)(nil)
