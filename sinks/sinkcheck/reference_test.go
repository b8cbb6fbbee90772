// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package sinkcheck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmstream/vmstream/sinks"
)

// fault is what is wrong with a reference sink; none is "".
type fault string

// reference is a sink in memory that does everything right, but for one fault.
type reference struct {
	fault fault
	can   sinks.Capabilities

	mu       sync.Mutex
	objects  map[string]object
	orphaned map[string]*part // by id
	versions int
}

type object struct {
	b    []byte
	info sinks.Info
}

type part struct {
	key string
	b   []byte
}

var everything = sinks.Capabilities{
	Read: true, Range: true, Stat: true, List: true, Delete: true, Resume: true, Orphans: true, Atomic: true, Exclusive: true, Concurrent: true,
}

func newReference(f fault, can sinks.Capabilities) *reference {
	return &reference{fault: f, can: can, objects: map[string]object{}, orphaned: map[string]*part{}}
}

// is reports if the sink has a fault.
func (s *reference) is(f fault) bool { return s.fault == f }

// claims gives ErrUnsupported for what the sink cannot do.
func (s *reference) claims(can bool) error {
	if !can && !s.is("does what it does not claim") {
		return sinks.ErrUnsupported
	}
	return nil
}

func (s *reference) Capabilities() sinks.Capabilities { return s.can }

func (s *reference) Create(ctx context.Context, key string, o sinks.CreateOptions) (sinks.Writer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if o.Resume || o.Keep {
		if err := s.claims(s.can.Resume); err != nil {
			return nil, err
		}
	}
	if s.is("refuses strange keys") && strings.ContainsAny(key, " ü%+?.~'\\$;") {
		return nil, errors.New("what a name")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.objects[key]; there && !o.Overwrite && !s.is("replaces unasked") && !s.is("lets both writers win") {
		return nil, sinks.ErrExists
	}
	if s.is("removes what is to be replaced") {
		delete(s.objects, key)
	}
	w := &refWriter{s: s, ctx: ctx, key: key, o: o}
	if s.is("shows objects early") {
		s.put(key, nil)
	}
	if o.Resume {
		for id, p := range s.orphaned {
			if p.key != key {
				continue
			}
			if w.old = p.b; s.is("resumes without comparing") || s.is("adds to what was kept") {
				w.b = slices.Clone(p.b)
			}
			delete(s.orphaned, id)
		}
		if w.old == nil && s.is("resumes only what is there") {
			return nil, errors.New("there is nothing to go on with")
		}
	}
	return w, nil
}

// put stores an object; the caller holds the lock.
func (s *reference) put(key string, b []byte) sinks.Info {
	s.versions++
	if s.is("never changes versions") {
		s.versions = 1
	}
	if s.is("mangles keys") {
		key = strings.ReplaceAll(key, "+", " ")
	}
	info := sinks.Info{Key: key, SizeBytes: int64(len(b)), Modified: time.Now(), Version: fmt.Sprint(s.versions)}
	s.objects[key] = object{bytes.Clone(b), info}
	return info
}

type refWriter struct {
	s     *reference
	ctx   context.Context
	key   string
	o     sinks.CreateOptions
	b     []byte
	old   []byte // what was kept
	at    int    // how much has been written, of the resume that does not compare
	err   error
	ended bool
}

var errOver = errors.New("the writer has ended")

func (w *refWriter) Write(p []byte) (int, error) {
	if w.ended && !w.s.is("writes behind the end") {
		return 0, errOver
	}
	if w.ctx.Err() != nil && !w.s.is("does not heed the context of a writer") {
		w.err = w.ctx.Err()
		return 0, w.err
	}
	if w.s.is("resumes without comparing") && w.at < len(w.old) {
		n := min(len(p), len(w.old)-w.at)
		w.at += n
		w.b = append(w.b, p[n:]...)
		return len(p), nil
	}
	if w.s.is("writes short") && len(p) > 60_000 {
		w.b = append(w.b, p[:60_000]...)
		return 60_000, nil
	}
	w.b = append(w.b, p...)
	return len(p), nil
}

func (w *refWriter) Commit(ctx context.Context, end sinks.End) (sinks.Info, error) {
	s := w.s
	if w.ended && !s.is("commits twice") {
		return sinks.Info{}, errOver
	}
	w.ended = true
	if err := errors.Join(w.err, ctx.Err()); err != nil && !s.is("commits what could not be written") {
		return sinks.Info{}, err
	}
	if end.SizeBytes != int64(len(w.b)) && !s.is("commits another length") && !s.is("commits what could not be written") {
		return sinks.Info{}, sinks.ErrShort
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.objects[w.key]; there && !w.o.Overwrite && !s.is("replaces unasked") && !s.is("shows objects early") && !s.is("lets both writers win") {
		if s.is("tells no reason") {
			return sinks.Info{}, errors.New("no")
		}
		return sinks.Info{}, sinks.ErrExists
	}
	b := w.b
	switch {
	case s.is("loses the last byte") && len(b) > 0:
		b = b[:len(b)-1]
	case s.is("changes large objects") && len(b) > 6<<20:
		b = slices.Clone(b)
		b[6<<20] ^= 1
	case s.is("stores nothing empty") && len(b) == 0:
		return sinks.Info{Key: w.key}, nil
	}
	info := s.put(w.key, b)
	if s.is("tells a wrong length") {
		info.SizeBytes++
	}
	return info, nil
}

func (w *refWriter) Abort(context.Context) error {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.is("aborts what is committed") {
		delete(s.objects, w.key)
	}
	if s.is("aborts once") && w.ended {
		return errOver
	}
	if w.ended {
		return nil
	}
	w.ended = true
	switch {
	case s.is("leaves what is aborted"):
		s.put(w.key, w.b)
	case s.is("shows objects early"), s.is("removes what is replaced at abort"):
		delete(s.objects, w.key)
	}
	if w.o.Keep && !s.is("keeps nothing") || s.is("leaves orphans") {
		s.versions++
		s.orphaned[fmt.Sprint("part", s.versions)] = &part{w.key, w.b}
	}
	return nil
}

// get returns an object.
func (s *reference) get(ctx context.Context, key string) (object, error) {
	if err := ctx.Err(); err != nil && !s.is("does not heed contexts") {
		return object{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[key]
	if !ok {
		if s.is("gives other errors") {
			return object{}, errors.New("what?")
		}
		return object{}, sinks.ErrNotExist
	}
	return o, nil
}

func (s *reference) Open(ctx context.Context, key string) (io.ReadCloser, sinks.Info, error) {
	if err := s.claims(s.can.Read); err != nil {
		return nil, sinks.Info{}, err
	}
	o, err := s.get(ctx, key)
	if err != nil {
		return nil, sinks.Info{}, err
	}
	if s.is("opens another") {
		o.info.SizeBytes++
	}
	b := o.b
	if s.is("ends early") {
		b = b[:len(b)*9/10]
	}
	return &refReader{Reader: bytes.NewReader(b), s: s}, o.info, nil
}

type refReader struct {
	*bytes.Reader
	s *reference
}

func (r *refReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF && r.s.is("fails behind the end") {
		_, _ = r.Seek(0, io.SeekStart)
	}
	return n, err
}

func (r *refReader) Close() error {
	if r.Len() > 0 && r.s.is("cannot be closed early") {
		return errors.New("there is more")
	}
	return nil
}

func (s *reference) OpenAt(ctx context.Context, key string) (sinks.RangeReader, error) {
	if err := s.claims(s.can.Range); err != nil {
		return nil, err
	}
	o, err := s.get(ctx, key)
	if err != nil {
		return nil, err
	}
	return &refRange{s: s, o: o}, nil
}

type refRange struct {
	s  *reference
	o  object
	mu sync.Mutex
	at int64 // of the fault that shares it
}

func (r *refRange) Info() sinks.Info { return r.o.info }
func (r *refRange) Close() error     { return nil }

func (r *refRange) ReadAt(p []byte, off int64) (int, error) {
	s := r.s
	switch {
	case s.is("ranges are off by one") && off > 0:
		off--
	case s.is("takes negative offsets"):
		off = max(off, 0)
	case s.is("shares a position"):
		r.mu.Lock()
		r.at = off
		r.mu.Unlock()
		time.Sleep(time.Millisecond)
		r.mu.Lock()
		off = r.at
		r.mu.Unlock()
	}
	n, err := bytes.NewReader(r.o.b).ReadAt(p, off)
	if err == io.EOF && s.is("has no end") {
		return n, nil
	}
	return n, err
}

func (s *reference) Stat(ctx context.Context, key string) (sinks.Info, error) {
	if err := s.claims(s.can.Stat); err != nil {
		return sinks.Info{}, err
	}
	o, err := s.get(ctx, key)
	return o.info, err
}

func (s *reference) List(ctx context.Context, prefix string) iter.Seq2[sinks.Info, error] {
	return func(yield func(sinks.Info, error) bool) {
		if err := errors.Join(s.claims(s.can.List), ctx.Err()); err != nil {
			yield(sinks.Info{}, err)
			return
		}
		s.mu.Lock()
		keys := slices.Sorted(maps.Keys(s.objects))
		s.mu.Unlock()
		switch {
		case s.is("lists in any order"):
			slices.Reverse(keys)
		case s.is("lists a part") && len(keys) > 4:
			keys = keys[:4]
		}
		for _, k := range keys {
			s.mu.Lock()
			info := s.objects[k].info
			s.mu.Unlock()
			if s.is("lists lengths of others") {
				info.SizeBytes += 3
			}
			if (strings.HasPrefix(k, prefix) || s.is("lists what was not asked for")) && !yield(info, nil) {
				return
			}
		}
	}
}

func (s *reference) Delete(ctx context.Context, key string) error {
	if err := s.claims(s.can.Delete); err != nil {
		return err
	}
	if _, err := s.get(ctx, key); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.is("deletes nothing"):
		return nil
	case s.is("deletes too much"):
		maps.DeleteFunc(s.objects, func(k string, _ object) bool { return strings.HasPrefix(k, key) })
	}
	delete(s.objects, key)
	return nil
}

func (s *reference) Orphans(ctx context.Context, prefix string) iter.Seq2[sinks.Orphan, error] {
	return func(yield func(sinks.Orphan, error) bool) {
		if err := errors.Join(s.claims(s.can.Orphans), ctx.Err()); err != nil {
			yield(sinks.Orphan{}, err)
			return
		}
		s.mu.Lock()
		all := maps.Clone(s.orphaned)
		s.mu.Unlock()
		if s.is("hides orphans") {
			return
		}
		for id, p := range all {
			if strings.HasPrefix(p.key, prefix) && !yield(sinks.Orphan{Key: p.key, ID: id, SizeBytes: int64(len(p.b))}, nil) {
				return
			}
		}
	}
}

func (s *reference) RemoveOrphan(_ context.Context, o sinks.Orphan) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.is("removes no orphans") {
		delete(s.orphaned, o.ID)
	}
	return nil
}

func (s *reference) Close() error { return nil }
