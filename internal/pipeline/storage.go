// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/stream"
)

// abortTime is how long sinks have to remove what will not be finished. The source
// is released behind it.
const abortTime = 30 * time.Second

// errAborted ends the writers of a storage that is given up.
var errAborted = errors.New("given up")

// Place is where a stream is stored.
type Place struct {
	Name     string // for messages and events
	Sink     sinks.Sink
	Key      string
	Optional bool // its failure does not fail the others

	// Begin returns what takes the stream if there is no Sink, such as stdout. ctx
	// bounds the writing.
	Begin func(ctx context.Context) (sinks.Writer, error)
}

// StorageOptions say how a stream is stored.
type StorageOptions struct {
	Create         sinks.CreateOptions
	BytesPerSecond int64 // of the stream; 0: no bound
	// SpoolBytes is how much of the stream may wait in a file in SpoolDir, so that
	// slow places do not hold up what is read; 0: there is no such file. An empty
	// SpoolDir is that of temporary files.
	SpoolBytes int64
	SpoolDir   string
}

// PlaceResult tells what has become of a place.
type PlaceResult struct {
	Name        string
	Err         error // of an optional place
	StoredBytes int64
	Seconds     float64
}

// Storage writes one stream to its places. It is used by one goroutine and
// ends with Commit or Abort.
type Storage struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	writer sinks.Writer
	tee    *sinks.TeeWriter // nil if there is one place, which is required
	names  []string
	counts map[string]*sinks.Counters
	failed map[string]error // optional places that could not begin
	began  time.Time
}

// CreateStorage begins an object in each place. When ctx ends, writing fails. If a
// place that is required cannot begin, what the others have begun is aborted.
func CreateStorage(ctx context.Context, places []Place, o StorageOptions) (*Storage, error) {
	s := &Storage{counts: map[string]*sinks.Counters{}, failed: map[string]error{}, began: time.Now()}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	var branches []sinks.Branch
	for i := range places {
		p := &places[i]
		s.names = append(s.names, p.Name)
		w, err := p.create(s.ctx, o.Create)
		if err == nil {
			s.counts[p.Name] = new(sinks.Counters)
			branches = append(branches, sinks.Branch{Name: p.Name, Writer: sinks.Count(w, s.counts[p.Name]), Optional: p.Optional})
			continue
		}
		s.failed[p.Name] = err
		if !p.Optional {
			return nil, errors.Join(fmt.Errorf("%s: %w", p.Name, err), s.abandonAll(ctx, branches))
		}
	}
	switch {
	case len(branches) == 0:
		s.cancel(errAborted)
		return nil, fmt.Errorf("no place is left: %w", joinErrors(s.failed))
	case len(branches) == 1 && !branches[0].Optional:
		s.writer = branches[0].Writer
	default:
		s.tee = sinks.Tee(s.ctx, branches...)
		s.writer = s.tee
	}
	if o.BytesPerSecond > 0 {
		s.writer = sinks.LimitRate(s.ctx, s.writer, sinks.NewRate(o.BytesPerSecond))
	}
	if o.SpoolBytes > 0 {
		spooled, err := sinks.Spool(s.ctx, s.writer, sinks.SpoolOptions{Dir: o.SpoolDir, LimitBytes: o.SpoolBytes})
		if err != nil {
			return nil, errors.Join(err, s.Abort(ctx))
		}
		s.writer = spooled
	}
	return s, nil
}

func (p *Place) create(ctx context.Context, o sinks.CreateOptions) (sinks.Writer, error) {
	if p.Sink == nil {
		return p.Begin(ctx)
	}
	return p.Sink.Create(ctx, p.Key, o)
}

func joinErrors(all map[string]error) error {
	var errs []error
	for name, err := range all {
		errs = append(errs, fmt.Errorf("%s: %w", name, err))
	}
	return errors.Join(errs...)
}

func (s *Storage) abandonAll(ctx context.Context, branches []sinks.Branch) error {
	s.cancel(errAborted)
	var errs []error
	for _, b := range branches {
		errs = append(errs, abortWriter(ctx, b.Writer))
	}
	return errors.Join(errs...)
}

// abortWriter does not wait longer than abortTime, also for a sink that does not
// heed its context.
func abortWriter(ctx context.Context, w sinks.Writer) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), abortTime,
		fmt.Errorf("what was stored could not be removed within %v", abortTime))
	defer cancel()
	_, err := abandon(ctx, func() (int, error) { return 0, w.Abort(ctx) })
	return err
}

// Write writes to all places that have not failed.
func (s *Storage) Write(p []byte) (int, error) { return s.writer.Write(p) }

// Commit makes the stream appear in all places.
func (s *Storage) Commit(ctx context.Context, res *stream.Result) error {
	defer s.cancel(nil)
	_, err := s.writer.Commit(ctx, sinks.End{SizeBytes: res.OutBytes, Digest: res.Index.SumsDigest})
	return err
}

// Abort gives up what was not committed. It waits a bounded time. Behind Commit it
// does nothing.
func (s *Storage) Abort(ctx context.Context) error {
	s.cancel(errAborted)
	return abortWriter(ctx, s.writer)
}

// Results tells what has become of the places, in their order, behind Commit.
func (s *Storage) Results() []PlaceResult {
	failed := map[string]error{}
	for name, err := range s.failed {
		failed[name] = err
	}
	if s.tee != nil {
		for _, e := range s.tee.Failed() {
			failed[e.Name] = e.Err
		}
	}
	took := time.Since(s.began).Seconds()
	var all []PlaceResult
	for _, name := range s.names {
		r := PlaceResult{Name: name, Err: failed[name], Seconds: took}
		if n := s.counts[name]; n != nil && r.Err == nil {
			r.StoredBytes = n.Stored.Load()
		}
		all = append(all, r)
	}
	return all
}

// direct is a writer that is no sink, such as stdout: what has been written is there.
type direct struct{ io.Writer }

// PlainWriter makes a place of w. A write that hangs ends with ctx.
func PlainWriter(ctx context.Context, w io.Writer) sinks.Writer {
	return direct{newCancelWriter(ctx, w)}
}

func (direct) Commit(_ context.Context, end sinks.End) (sinks.Info, error) {
	return sinks.Info{SizeBytes: end.SizeBytes}, nil
}

func (direct) Abort(context.Context) error { return nil }
