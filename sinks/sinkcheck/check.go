// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package sinkcheck checks that a sink keeps the contract of package sinks.
package sinkcheck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/vmstream/vmstream/sinks"
)

// Check is the outcome of one check.
type Check struct {
	Name string
	// Skipped is the capability that the sink does not claim and the check needs;
	// empty if it was run.
	Skipped string
	Err     error
}

// checkTime bounds a check. A sink that takes longer for some MiB hangs.
const checkTime = 2 * time.Minute

// check is one thing that a sink has to do.
type check struct {
	name  string
	needs []capability
	run   func(context.Context, *run) error
}

// capability is one by its name.
type capability struct {
	name string
	has  func(sinks.Capabilities) bool
}

var (
	canRead    = capability{"read", func(c sinks.Capabilities) bool { return c.Read }}
	canRange   = capability{"range", func(c sinks.Capabilities) bool { return c.Range }}
	canStat    = capability{"stat", func(c sinks.Capabilities) bool { return c.Stat }}
	canList    = capability{"list", func(c sinks.Capabilities) bool { return c.List }}
	canDelete  = capability{"delete", func(c sinks.Capabilities) bool { return c.Delete }}
	canResume  = capability{"resume", func(c sinks.Capabilities) bool { return c.Resume }}
	hasOrphans = capability{"orphans", func(c sinks.Capabilities) bool { return c.Orphans }}
	isAtomic   = capability{"atomic", func(c sinks.Capabilities) bool { return c.Atomic }}
	exclusive  = capability{"exclusive", func(c sinks.Capabilities) bool { return c.Exclusive }}
	concurrent = capability{"concurrent", func(c sinks.Capabilities) bool { return c.Concurrent }}
)

// checks are all checks in the order that they run in.
func checks() []check { return append(append(writing(), reading()...), keeping()...) }

// Names returns the names of all checks.
func Names() []string {
	var names []string
	for _, c := range checks() {
		names = append(names, c.name)
	}
	return names
}

// Verify runs all checks with keys that begin with prefix and reports each. What it
// stores, some tens of MiB one after the other, it removes, if the sink can do that. The
// error joins those of the checks.
func Verify(ctx context.Context, s sinks.Sink, prefix string, report func(Check)) error {
	var all []error
	for i, c := range checks() {
		done := Check{Name: c.name}
		for _, need := range c.needs {
			if !need.has(s.Capabilities()) && done.Skipped == "" {
				done.Skipped = need.name
			}
		}
		if done.Skipped == "" {
			done.Err = verify(ctx, s, c, fmt.Sprintf("%scheck-%d-%d", prefix, time.Now().UnixNano(), i))
		}
		if done.Err != nil {
			all = append(all, fmt.Errorf("%s: %w", c.name, done.Err))
		}
		report(done)
		if ctx.Err() != nil {
			return errors.Join(append(all, context.Cause(ctx))...)
		}
	}
	return errors.Join(all...)
}

func verify(ctx context.Context, s sinks.Sink, c check, key string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, checkTime, fmt.Errorf("takes longer than %v", checkTime))
	defer cancel()
	r := &run{sink: s, can: s.Capabilities(), base: key}
	err := c.run(ctx, r)
	return errors.Join(err, r.cleanUp(ctx))
}

// run is a check at work.
type run struct {
	sink sinks.Sink
	can  sinks.Capabilities
	base string // with which its keys begin
	keys []string
}

// key returns a key of its own, which is cleaned up.
func (r *run) key(name string) string {
	k := r.base + name
	r.keys = append(r.keys, k)
	return k
}

// cleanUp removes what is left, also where a check has failed.
func (r *run) cleanUp(ctx context.Context) error {
	var errs []error
	if r.can.Delete {
		for _, k := range r.keys {
			if err := r.sink.Delete(ctx, k); err != nil && !errors.Is(err, sinks.ErrNotExist) {
				errs = append(errs, fmt.Errorf("clean up: %w", err))
			}
		}
	}
	if r.can.Orphans {
		for o, err := range r.sink.Orphans(ctx, r.base) {
			if err == nil {
				err = r.sink.RemoveOrphan(ctx, o)
			}
			if err != nil {
				return errors.Join(append(errs, fmt.Errorf("clean up: %w", err))...)
			}
		}
	}
	return errors.Join(errs...)
}

// content is n bytes that look like nothing else, different for each seed.
func content(n int, seed uint64) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 's'}).Read(b) // never fails
	return b
}

// writePieces are lengths of writes: parts of a sink begin and end within them.
var writePieces = []int{1, 70_001, 3, 1 << 20, 511, 262_144}

// writeTo writes b in pieces.
func writeTo(w io.Writer, b []byte) error {
	for i := 0; len(b) > 0; i++ {
		p := b[:min(len(b), writePieces[i%len(writePieces)])]
		n, err := w.Write(p)
		if err != nil {
			return err
		}
		if n != len(p) {
			return fmt.Errorf("write of %d bytes takes %d and gives no error", len(p), n)
		}
		b = b[n:]
	}
	return nil
}

// create begins an object and writes b.
func (r *run) create(ctx context.Context, key string, b []byte, o sinks.CreateOptions) (sinks.Writer, error) {
	w, err := r.sink.Create(ctx, key, o)
	if err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	if err := writeTo(w, b); err != nil {
		return nil, errors.Join(fmt.Errorf("write: %w", err), w.Abort(ctx))
	}
	return w, nil
}

// store stores an object.
func (r *run) store(ctx context.Context, key string, b []byte, o sinks.CreateOptions) (sinks.Info, error) {
	w, err := r.create(ctx, key, b, o)
	if err != nil {
		return sinks.Info{}, err
	}
	info, err := w.Commit(ctx, sinks.End{SizeBytes: int64(len(b))})
	if err != nil {
		return info, errors.Join(fmt.Errorf("commit: %w", err), w.Abort(ctx))
	}
	return info, nil
}

// absent fails if an object is there, as far as the sink can tell.
func (r *run) absent(ctx context.Context, key string) error {
	if !r.can.Stat {
		return nil
	}
	if _, err := r.sink.Stat(ctx, key); !errors.Is(err, sinks.ErrNotExist) {
		return fmt.Errorf("it is there: stat gives %v, not ErrNotExist", err)
	}
	return nil
}

// has fails if an object does not have these bytes. It says nothing of a sink that
// cannot read.
func (r *run) has(ctx context.Context, key string, want []byte) error {
	if !r.can.Read {
		return nil
	}
	reader, _, err := r.sink.Open(ctx, key)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	got, err := io.ReadAll(io.LimitReader(reader, int64(len(want))+1))
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%d bytes come back that differ from the %d written", len(got), len(want))
	}
	return errors.Join(err, reader.Close())
}
