// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package sinkcheck

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/vmstream/vmstream/sinks"
)

// writing are the checks of writers.
func writing() []check {
	return []check{
		{"nothing is there before Commit", []capability{canStat, isAtomic}, early},
		{"an object is whole behind Commit", []capability{canRead}, whole},
		{"Commit tells of the object", nil, committedInfo},
		{"Commit refuses another length, and stores nothing", nil, wrongLength},
		{"Abort leaves nothing", []capability{isAtomic}, aborted},
		{"Abort behind Commit does nothing", nil, abortBehindCommit},
		{"a writer ends once", nil, endsOnce},
		{"a context that ends stops a writer", []capability{isAtomic}, cancelled},
		{"nothing is replaced unasked", []capability{canStat}, exists},
		{"an object is replaced at Commit, and not before", []capability{canRead, canStat, isAtomic}, replaced},
		{"Abort keeps what was to be replaced", []capability{canRead, canStat, isAtomic}, abortedReplacement},
		{"of two writers one wins", []capability{canRead, exclusive, concurrent}, race},
	}
}

func early(ctx context.Context, r *run) error {
	key := r.key("")
	w, err := r.create(ctx, key, content(100_000, 1), sinks.CreateOptions{})
	if err != nil {
		return err
	}
	err = r.absent(ctx, key)
	if err == nil && r.can.List {
		for info, listErr := range r.sink.List(ctx, key) {
			if listErr != nil || info.Key == key {
				err = errors.Join(listErr, fmt.Errorf("list has %q", info.Key))
				break
			}
		}
	}
	return errors.Join(err, w.Abort(ctx))
}

// wholeSizes are around the least part of S3, and more than one of them.
var wholeSizes = []int{0, 1, 511, 5<<20 - 1, 5<<20 + 1, 17 << 20}

func whole(ctx context.Context, r *run) error {
	for i, size := range wholeSizes {
		key, b := r.key(fmt.Sprint("-", i)), content(size, uint64(i))
		if _, err := r.store(ctx, key, b, sinks.CreateOptions{SizeHintBytes: int64(size)}); err != nil {
			return fmt.Errorf("object of %d bytes: %w", size, err)
		}
		if err := r.has(ctx, key, b); err != nil {
			return fmt.Errorf("object of %d bytes: %w", size, err)
		}
		if r.can.Delete {
			if err := r.sink.Delete(ctx, key); err != nil {
				return err
			}
		}
	}
	return nil
}

func committedInfo(ctx context.Context, r *run) error {
	key := r.key("")
	const size = 70_003
	info, err := r.store(ctx, key, content(size, 2), sinks.CreateOptions{ID: "check"})
	if err != nil {
		return err
	}
	if info.Key != key || info.SizeBytes != size && info.SizeBytes != -1 {
		return fmt.Errorf("commit tells of %q with %d bytes, it was %q with %d", info.Key, info.SizeBytes, key, size)
	}
	if !r.can.Stat {
		return nil
	}
	now, err := r.sink.Stat(ctx, key)
	if err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if now.Key != key || now.SizeBytes != size {
		return fmt.Errorf("stat tells of %q with %d bytes, it was %q with %d", now.Key, now.SizeBytes, key, size)
	}
	if info.Version != "" && info.Version != now.Version {
		return fmt.Errorf("commit tells of version %q, stat of %q", info.Version, now.Version)
	}
	return nil
}

func wrongLength(ctx context.Context, r *run) error {
	b := content(50_000, 3)
	for i, size := range []int64{0, int64(len(b)) - 1, int64(len(b)) + 1} {
		key := r.key(fmt.Sprint("-", i))
		w, err := r.create(ctx, key, b, sinks.CreateOptions{})
		if err != nil {
			return err
		}
		if _, err := w.Commit(ctx, sinks.End{SizeBytes: size}); err == nil {
			return fmt.Errorf("%d bytes are committed as %d", len(b), size)
		}
		if err := w.Abort(ctx); err != nil {
			return fmt.Errorf("abort: %w", err)
		}
		if r.can.Atomic {
			if err := r.absent(ctx, key); err != nil {
				return err
			}
		}
	}
	return nil
}

func aborted(ctx context.Context, r *run) error {
	for i, size := range []int{0, 1, 6 << 20} {
		key := r.key(fmt.Sprint("-", i))
		w, err := r.create(ctx, key, content(size, 4), sinks.CreateOptions{})
		if err != nil {
			return err
		}
		if err := errors.Join(w.Abort(ctx), w.Abort(ctx)); err != nil {
			return fmt.Errorf("abort, twice: %w", err)
		}
		if err := r.absent(ctx, key); err != nil {
			return err
		}
		if !r.can.Orphans {
			continue
		}
		for o, err := range r.sink.Orphans(ctx, key) {
			if err != nil || o.Key == key {
				return errors.Join(err, fmt.Errorf("an orphan is left, %q", o.ID))
			}
		}
	}
	return nil
}

func abortBehindCommit(ctx context.Context, r *run) error {
	key, b := r.key(""), content(1000, 5)
	w, err := r.create(ctx, key, b, sinks.CreateOptions{})
	if err != nil {
		return err
	}
	if _, err := w.Commit(ctx, sinks.End{SizeBytes: int64(len(b))}); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if err := w.Abort(ctx); err != nil {
		return fmt.Errorf("abort behind commit: %w", err)
	}
	if r.can.Stat {
		if _, err := r.sink.Stat(ctx, key); err != nil {
			return fmt.Errorf("stat behind abort: %w", err)
		}
	}
	return r.has(ctx, key, b)
}

func endsOnce(ctx context.Context, r *run) error {
	key, b := r.key(""), content(1000, 6)
	end := sinks.End{SizeBytes: int64(len(b))}
	w, err := r.create(ctx, key, b, sinks.CreateOptions{})
	if err != nil {
		return err
	}
	if _, err := w.Commit(ctx, end); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if _, err := w.Commit(ctx, end); err == nil {
		return errors.New("a second commit succeeds")
	}
	if _, err := w.Write([]byte("late")); err == nil {
		return errors.New("a write behind commit succeeds")
	}
	if err := r.has(ctx, key, b); err != nil {
		return err
	}
	w, err = r.create(ctx, r.key("-aborted"), b, sinks.CreateOptions{})
	if err != nil {
		return err
	}
	if err := w.Abort(ctx); err != nil {
		return fmt.Errorf("abort: %w", err)
	}
	if _, err := w.Commit(ctx, end); err == nil {
		return errors.New("a commit behind abort succeeds")
	}
	if _, err := w.Write([]byte("late")); err == nil {
		return errors.New("a write behind abort succeeds")
	}
	return nil
}

func cancelled(ctx context.Context, r *run) error {
	key := r.key("")
	bounded, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := r.create(bounded, key, content(300_000, 7), sinks.CreateOptions{})
	if err != nil {
		return err
	}
	cancel()
	const most = 64 // a sink may have room for what it is given before it looks
	piece, size := content(1<<20, 8), int64(300_000)
	for range most {
		if _, err = w.Write(piece); err != nil {
			break
		}
		size += int64(len(piece))
	}
	if err == nil {
		_ = w.Abort(ctx)
		return fmt.Errorf("%d writes succeed behind the end of the context", most)
	}
	if _, err := w.Commit(ctx, sinks.End{SizeBytes: size}); err == nil {
		return errors.New("commit succeeds behind a write that has failed")
	}
	if err := w.Abort(ctx); err != nil {
		return fmt.Errorf("abort: %w", err)
	}
	return r.absent(ctx, key)
}

func exists(ctx context.Context, r *run) error {
	key, first := r.key(""), content(1000, 9)
	if _, err := r.store(ctx, key, first, sinks.CreateOptions{}); err != nil {
		return err
	}
	_, err := r.store(ctx, key, content(2000, 10), sinks.CreateOptions{})
	if !errors.Is(err, sinks.ErrExists) {
		return fmt.Errorf("a second object under the key gives %v, not ErrExists", err)
	}
	return r.has(ctx, key, first)
}

func replaced(ctx context.Context, r *run) error {
	key, first, second := r.key(""), content(1000, 11), content(3000, 12)
	was, err := r.store(ctx, key, first, sinks.CreateOptions{})
	if err != nil {
		return err
	}
	w, err := r.create(ctx, key, second, sinks.CreateOptions{Overwrite: true})
	if err != nil {
		return err
	}
	if err := r.still(ctx, was, first); err != nil {
		return errors.Join(fmt.Errorf("before commit: %w", err), w.Abort(ctx))
	}
	info, err := w.Commit(ctx, sinks.End{SizeBytes: int64(len(second))})
	if err != nil {
		return errors.Join(fmt.Errorf("commit: %w", err), w.Abort(ctx))
	}
	if info.Version != "" && info.Version == was.Version {
		return fmt.Errorf("another content has the same version, %q", info.Version)
	}
	return r.has(ctx, key, second)
}

// still fails if an object is not what it was. A sink that has one user at a time can
// only tell of it while there is a writer.
func (r *run) still(ctx context.Context, was sinks.Info, content []byte) error {
	if r.can.Concurrent {
		return r.has(ctx, was.Key, content)
	}
	now, err := r.sink.Stat(ctx, was.Key)
	if err == nil && (now.Version != was.Version || now.SizeBytes != was.SizeBytes) {
		err = fmt.Errorf("stat tells of %+v, it was %+v", now, was)
	}
	return err
}

func abortedReplacement(ctx context.Context, r *run) error {
	key, first := r.key(""), content(1000, 13)
	if _, err := r.store(ctx, key, first, sinks.CreateOptions{}); err != nil {
		return err
	}
	w, err := r.create(ctx, key, content(3000, 14), sinks.CreateOptions{Overwrite: true})
	if err != nil {
		return err
	}
	if err := w.Abort(ctx); err != nil {
		return fmt.Errorf("abort: %w", err)
	}
	return r.has(ctx, key, first)
}

// race has two writers of one key commit at the same time.
func race(ctx context.Context, r *run) error {
	key := r.key("")
	var all [2][]byte
	var errs [2]error
	var writers [2]sinks.Writer
	for i := range all {
		all[i] = content(100_000+i, uint64(15+i))
		var err error
		if writers[i], err = r.create(ctx, key, all[i], sinks.CreateOptions{}); err != nil {
			if i == 1 {
				err = errors.Join(err, writers[0].Abort(ctx))
			}
			return err
		}
	}
	var wg sync.WaitGroup
	for i, w := range writers {
		wg.Go(func() {
			if _, errs[i] = w.Commit(ctx, sinks.End{SizeBytes: int64(len(all[i]))}); errs[i] != nil {
				_ = w.Abort(ctx) // that it has lost is what matters
			}
		})
	}
	wg.Wait()
	won := 0
	if errs[0] != nil {
		won = 1
	}
	switch lost := errs[1-won]; {
	case errs[won] != nil:
		return fmt.Errorf("neither of two writers of a key can commit: %w", errors.Join(errs[:]...))
	case !errors.Is(lost, sinks.ErrExists):
		return fmt.Errorf("the second of two writers gets %v, not ErrExists", lost)
	}
	return r.has(ctx, key, all[won])
}
