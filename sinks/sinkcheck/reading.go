// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package sinkcheck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/vmstream/vmstream/sinks"
)

// reading are the checks of readers and of what is told of objects.
func reading() []check {
	return []check{
		{"what is not there gives ErrNotExist", nil, missing},
		{"what is not claimed gives ErrUnsupported", nil, unclaimed},
		{"Open tells of the object", []capability{canRead, canStat}, openInfo},
		{"a reader ends once, and can be closed before", []capability{canRead}, readerEnds},
		{"ranges are those of the object", []capability{canRange}, ranges},
		{"ranges are read at the same time", []capability{canRange, concurrent}, parallelRanges},
		{"a context that has ended is heeded", nil, ended},
	}
}

// calls are the calls for a key, by the capability that they need.
func (r *run) calls(ctx context.Context, key string) map[string]func() error {
	all := map[string]func() error{}
	add := func(name string, can bool, f func() error) {
		if can {
			all[name] = f
		}
	}
	add("stat", r.can.Stat, func() error { _, err := r.sink.Stat(ctx, key); return err })
	add("delete", r.can.Delete, func() error { return r.sink.Delete(ctx, key) })
	add("open", r.can.Read, func() error {
		reader, _, err := r.sink.Open(ctx, key)
		if err == nil {
			_, err = io.Copy(io.Discard, reader) // a program tells it at its end only
			err = errors.Join(err, reader.Close())
		}
		return err
	})
	add("open at", r.can.Range, func() error {
		reader, err := r.sink.OpenAt(ctx, key)
		if err == nil {
			err = reader.Close()
		}
		return err
	})
	return all
}

func missing(ctx context.Context, r *run) error {
	if !r.can.Stat { // a program that cannot tell what there is cannot tell what is not
		return nil
	}
	for name, call := range r.calls(ctx, r.key("")) {
		if err := call(); !errors.Is(err, sinks.ErrNotExist) {
			return fmt.Errorf("%s gives %v", name, err)
		}
	}
	return nil
}

func unclaimed(ctx context.Context, r *run) error {
	key := r.key("")
	for name, call := range map[string]func() error{
		"stat": func() error { _, err := r.sink.Stat(ctx, key); return orClaimed(err, r.can.Stat) },
		"delete": func() error {
			if r.can.Delete {
				return sinks.ErrUnsupported
			}
			return r.sink.Delete(ctx, key)
		},
		"open": func() error {
			if r.can.Read {
				return sinks.ErrUnsupported
			}
			_, _, err := r.sink.Open(ctx, key)
			return err
		},
		"open at": func() error {
			if r.can.Range {
				return sinks.ErrUnsupported
			}
			_, err := r.sink.OpenAt(ctx, key)
			return err
		},
		"list": func() error {
			for _, err := range r.sink.List(ctx, key) {
				return orClaimed(err, r.can.List)
			}
			return orClaimed(nil, r.can.List)
		},
		"orphans": func() error {
			for _, err := range r.sink.Orphans(ctx, key) {
				return orClaimed(err, r.can.Orphans)
			}
			return orClaimed(nil, r.can.Orphans)
		},
		"resume": func() error {
			if r.can.Resume {
				return sinks.ErrUnsupported
			}
			w, err := r.sink.Create(ctx, key, sinks.CreateOptions{Resume: true})
			if err == nil {
				_ = w.Abort(ctx)
			}
			return err
		},
	} {
		if err := call(); !errors.Is(err, sinks.ErrUnsupported) {
			return fmt.Errorf("%s gives %v", name, err)
		}
	}
	return nil
}

// orClaimed is ErrUnsupported for what is claimed: there is nothing to check.
func orClaimed(err error, claimed bool) error {
	if claimed {
		return sinks.ErrUnsupported
	}
	return err
}

func openInfo(ctx context.Context, r *run) error {
	key := r.key("")
	b := content(4000, 20)
	if _, err := r.store(ctx, key, b, sinks.CreateOptions{}); err != nil {
		return err
	}
	want, err := r.sink.Stat(ctx, key)
	if err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	reader, got, err := r.sink.Open(ctx, key)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if err := reader.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	if got.Key != want.Key || got.SizeBytes != want.SizeBytes || got.Version != want.Version {
		return fmt.Errorf("open tells of %+v, stat of %+v", got, want)
	}
	if !r.can.Range {
		return nil
	}
	at, err := r.sink.OpenAt(ctx, key)
	if err != nil {
		return fmt.Errorf("open at: %w", err)
	}
	got = at.Info()
	if got.Key != want.Key || got.SizeBytes != want.SizeBytes || got.Version != want.Version {
		return errors.Join(fmt.Errorf("open at tells of %+v, stat of %+v", got, want), at.Close())
	}
	return at.Close()
}

func readerEnds(ctx context.Context, r *run) error {
	key, b := r.key(""), content(2<<20+7, 21)
	if _, err := r.store(ctx, key, b, sinks.CreateOptions{}); err != nil {
		return err
	}
	reader, _, err := r.sink.Open(ctx, key)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	var got bytes.Buffer
	piece := make([]byte, 9001)
	for {
		n, err := reader.Read(piece)
		got.Write(piece[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			return errors.Join(fmt.Errorf("read: %w", err), reader.Close())
		}
		if got.Len() > len(b) {
			break
		}
	}
	if !bytes.Equal(got.Bytes(), b) {
		return errors.Join(fmt.Errorf("%d bytes come in pieces that differ from the %d written", got.Len(), len(b)), reader.Close())
	}
	if n, err := reader.Read(piece); n != 0 || err != io.EOF {
		return errors.Join(fmt.Errorf("a read behind the end gives %d bytes and %v", n, err), reader.Close())
	}
	if err := reader.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	if !r.can.Stat {
		return nil // a program may well complain when nobody reads its output
	}
	reader, _, err = r.sink.Open(ctx, key)
	if err == nil {
		_, err = reader.Read(piece)
		err = errors.Join(err, reader.Close())
	}
	return err
}

func ranges(ctx context.Context, r *run) error {
	key, b := r.key(""), content(6<<20+11, 22)
	if _, err := r.store(ctx, key, b, sinks.CreateOptions{}); err != nil {
		return err
	}
	at, err := r.sink.OpenAt(ctx, key)
	if err != nil {
		return fmt.Errorf("open at: %w", err)
	}
	return errors.Join(checkRanges(at, b), at.Close())
}

func checkRanges(at sinks.RangeReader, b []byte) error {
	size := int64(len(b))
	for _, c := range []struct {
		off int64
		n   int
	}{{0, 1}, {0, 4096}, {1, 1}, {size - 1, 1}, {size - 4096, 4096}, {5<<20 - 3, 6}, {12_345, 2 << 20}, {0, len(b)}} {
		p := make([]byte, c.n)
		n, err := at.ReadAt(p, c.off)
		if n != c.n || err != nil && err != io.EOF || !bytes.Equal(p, b[c.off:c.off+int64(c.n)]) {
			return fmt.Errorf("%d bytes at %d: %d come, or others, and %v", c.n, c.off, n, err)
		}
	}
	p := make([]byte, 100)
	if n, err := at.ReadAt(p, size-40); n != 40 || err != io.EOF || !bytes.Equal(p[:40], b[size-40:]) {
		return fmt.Errorf("100 bytes 40 before the end: %d come and %v, not 40 and io.EOF", n, err)
	}
	for _, off := range []int64{size, size + 1000} {
		if n, err := at.ReadAt(p, off); n != 0 || err != io.EOF {
			return fmt.Errorf("behind the end: %d bytes come and %v, not io.EOF", n, err)
		}
	}
	if n, err := at.ReadAt(p, -1); n != 0 || err == nil || err == io.EOF {
		return fmt.Errorf("at offset -1: %d bytes come and %v", n, err)
	}
	return nil
}

func parallelRanges(ctx context.Context, r *run) error {
	key, b := r.key(""), content(3<<20, 23)
	if _, err := r.store(ctx, key, b, sinks.CreateOptions{}); err != nil {
		return err
	}
	at, err := r.sink.OpenAt(ctx, key)
	if err != nil {
		return fmt.Errorf("open at: %w", err)
	}
	const many = 4
	var wg sync.WaitGroup
	errs := make([]error, many)
	for i := range many {
		wg.Go(func() {
			for k := range 2 {
				off := int64(i*100_003+k*700_001) % (2 << 20)
				p := make([]byte, 300_000)
				if n, err := at.ReadAt(p, off); n != len(p) || err != nil && err != io.EOF || !bytes.Equal(p, b[off:off+int64(n)]) {
					errs[i] = fmt.Errorf("%d bytes at %d: %d come, or others, and %w", len(p), off, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs, at.Close())...)
}

func ended(ctx context.Context, r *run) error {
	key, b := r.key(""), content(100, 24)
	if r.can.Delete { // otherwise it would be there the second time
		if _, err := r.store(ctx, key, b, sinks.CreateOptions{}); err != nil {
			return err
		}
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	for name, call := range r.calls(over, key) {
		if !r.can.Delete && name == "open" {
			continue
		}
		if err := call(); err == nil {
			return fmt.Errorf("%s succeeds though its context has ended", name)
		}
	}
	if r.can.Stat && r.can.Delete {
		return r.has(ctx, key, b) // not deleted
	}
	return nil
}
