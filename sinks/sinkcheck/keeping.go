// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package sinkcheck

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vmstream/vmstream/sinks"
)

// keeping are the checks of what becomes of objects: listing, names, removal,
// orphans, and going on.
func keeping() []check {
	return []check{
		{"Delete removes", []capability{canDelete, canStat}, deletes},
		{"List has what is there, in order", []capability{canList}, lists},
		{"keys are kept as they are", []capability{canRead, canList, canDelete}, names},
		{"what is kept can be gone on with", []capability{canResume, canRead}, resumes},
		{"going on with other bytes stores those", []capability{canResume, canRead}, resumesOther},
		{"without something to go on with, resuming begins", []capability{canResume, canRead}, resumesNothing},
		{"what is kept is an orphan, and can be removed", []capability{canResume, hasOrphans}, orphans},
	}
}

func deletes(ctx context.Context, r *run) error {
	key, other := r.key("-a"), r.key("-ab")
	b := content(10, 30)
	for _, k := range []string{key, other} {
		if _, err := r.store(ctx, k, b, sinks.CreateOptions{}); err != nil {
			return err
		}
	}
	if err := r.sink.Delete(ctx, key); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if err := r.absent(ctx, key); err != nil {
		return err
	}
	if err := r.has(ctx, other, b); err != nil {
		return fmt.Errorf("of a key that begins with it: %w", err)
	}
	_, err := r.store(ctx, key, b, sinks.CreateOptions{}) // as if it had never been there
	return err
}

func lists(ctx context.Context, r *run) error {
	before := time.Now().Add(-time.Hour)
	want := map[string]int64{}
	for i, name := range []string{"-b", "-a", "-B", "-a0", "-a-", "-c"} {
		key := r.key(name)
		want[key] = int64(i * 100)
		if _, err := r.store(ctx, key, content(i*100, 31), sinks.CreateOptions{}); err != nil {
			return err
		}
	}
	if r.can.Atomic { // not an object yet
		w, err := r.create(ctx, r.key("-begun"), content(1000, 32), sinks.CreateOptions{})
		if err != nil {
			return err
		}
		defer w.Abort(ctx) //nolint:errcheck // of no interest here
	}
	for prefix, n := range map[string]int{r.base: 6, r.base + "-a": 3, r.base + "-none": 0} {
		var keys []string
		for info, err := range r.sink.List(ctx, prefix) {
			if err != nil {
				return fmt.Errorf("list %q: %w", prefix, err)
			}
			size, ours := want[info.Key]
			if !ours || info.SizeBytes != size && info.SizeBytes != -1 {
				return fmt.Errorf("list has %q with %d bytes", info.Key, info.SizeBytes)
			}
			if !info.Modified.IsZero() && info.Modified.Before(before) {
				return fmt.Errorf("list has %q as of %v", info.Key, info.Modified)
			}
			if keys = append(keys, info.Key); len(keys) > 10 {
				break
			}
		}
		if len(keys) != n || !slices.IsSorted(keys) {
			return fmt.Errorf("list gives %q, not %d keys in the order of their bytes", keys, n)
		}
	}
	for range r.sink.List(ctx, r.base) { // who has enough stops
		break
	}
	return nil
}

// strangeNames are what a key may have in it.
var strangeNames = []string{" blank", "-ü-日本", "%41", "+plus", "q?m#h&x=1", "a..b", "~tilde", "'quote\"", "back\\slash", "$HOME", "semi;colon"}

func names(ctx context.Context, r *run) error {
	taken := 0
	for i, name := range strangeNames {
		key := r.key(name)
		b := content(50+i, 33)
		w, err := r.sink.Create(ctx, key, sinks.CreateOptions{})
		if err != nil { // it may refuse, but not take it for another
			r.keys = slices.DeleteFunc(r.keys, func(k string) bool { return k == key })
			continue
		}
		taken++
		if err := writeTo(w, b); err != nil {
			return errors.Join(fmt.Errorf("key %q: write: %w", key, err), w.Abort(ctx))
		}
		if _, err := w.Commit(ctx, sinks.End{SizeBytes: int64(len(b))}); err != nil {
			return errors.Join(fmt.Errorf("key %q: commit: %w", key, err), w.Abort(ctx))
		}
		if err := r.has(ctx, key, b); err != nil {
			return fmt.Errorf("key %q: %w", key, err)
		}
		found := false
		for info, err := range r.sink.List(ctx, key) {
			if err != nil {
				return fmt.Errorf("list %q: %w", key, err)
			}
			found = found || info.Key == key
		}
		if !found {
			return fmt.Errorf("list does not have the key %q", key)
		}
	}
	if taken == 0 {
		return errors.New("no key is taken that has more than letters and digits in it")
	}
	return nil
}

// interrupted leaves a part of b under the key.
func (r *run) interrupted(ctx context.Context, key string, b []byte) error {
	w, err := r.create(ctx, key, b, sinks.CreateOptions{Keep: true, ID: "check"})
	if err != nil {
		return err
	}
	if err := w.Abort(ctx); err != nil {
		return fmt.Errorf("abort: %w", err)
	}
	return r.absent(ctx, key)
}

// resumeBytes is more than a part of S3, of the length that these have by default.
const resumeBytes = 20 << 20

func resumes(ctx context.Context, r *run) error {
	key, b := r.key(""), content(resumeBytes, 34)
	for _, part := range []int{resumeBytes / 3, resumeBytes - 1} { // interrupted twice
		w, err := r.create(ctx, key, b[:part], sinks.CreateOptions{Keep: true, Resume: part > resumeBytes/2, ID: "check"})
		if err != nil {
			return err
		}
		if err := w.Abort(ctx); err != nil {
			return fmt.Errorf("abort: %w", err)
		}
		if err := r.absent(ctx, key); err != nil {
			return err
		}
	}
	if _, err := r.store(ctx, key, b, sinks.CreateOptions{Keep: true, Resume: true, ID: "check"}); err != nil {
		return err
	}
	return r.has(ctx, key, b)
}

func resumesOther(ctx context.Context, r *run) error {
	key := r.key("")
	if err := r.interrupted(ctx, key, content(resumeBytes-100_000, 35)); err != nil {
		return err
	}
	b := content(resumeBytes, 36)
	if _, err := r.store(ctx, key, b, sinks.CreateOptions{Keep: true, Resume: true, ID: "check"}); err != nil {
		return err
	}
	if err := r.has(ctx, key, b); err != nil {
		return err
	}
	// What was kept is longer.
	key = r.key("-shorter")
	if err := r.interrupted(ctx, key, b); err != nil {
		return err
	}
	if _, err := r.store(ctx, key, b[:resumeBytes/2], sinks.CreateOptions{Keep: true, Resume: true, ID: "check"}); err != nil {
		return err
	}
	return r.has(ctx, key, b[:resumeBytes/2])
}

func resumesNothing(ctx context.Context, r *run) error {
	key, b := r.key(""), content(1<<20, 37)
	if _, err := r.store(ctx, key, b, sinks.CreateOptions{Keep: true, Resume: true, ID: "check"}); err != nil {
		return err
	}
	return r.has(ctx, key, b)
}

func orphans(ctx context.Context, r *run) error {
	key := r.key("")
	if err := r.interrupted(ctx, key, content(resumeBytes, 38)); err != nil {
		return err
	}
	var found []sinks.Orphan
	for o, err := range r.sink.Orphans(ctx, r.base) {
		if err != nil {
			return fmt.Errorf("orphans: %w", err)
		}
		if o.Key == key {
			found = append(found, o)
		}
	}
	if len(found) != 1 {
		return fmt.Errorf("%d orphans are there, one was left", len(found))
	}
	if err := r.sink.RemoveOrphan(ctx, found[0]); err != nil {
		return fmt.Errorf("remove an orphan: %w", err)
	}
	for o, err := range r.sink.Orphans(ctx, r.base) {
		if err != nil || o.Key == key {
			return errors.Join(err, fmt.Errorf("the orphan %q is there still", o.ID))
		}
	}
	return r.absent(ctx, key)
}
