// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package sinks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"
)

// collector is a writer that keeps what it gets.
type collector struct {
	mu        sync.Mutex
	b         bytes.Buffer
	ctx       context.Context // ends writes that wait; may be nil
	block     chan struct{}   // writes wait for it if there is one
	waits     atomic.Bool     // one does
	failAfter int             // bytes until a write fails; 0: none does
	commitErr error
	committed bool
	aborted   int
}

var errWrite = errors.New("no room")

func (c *collector) Write(p []byte) (int, error) {
	if c.block != nil {
		c.waits.Store(true)
		var done <-chan struct{}
		if c.ctx != nil {
			done = c.ctx.Done()
		}
		select {
		case <-c.block:
		case <-done:
			return 0, context.Cause(c.ctx)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failAfter > 0 && c.b.Len()+len(p) > c.failAfter {
		return 0, errWrite
	}
	return c.b.Write(p)
}

func (c *collector) Commit(_ context.Context, end End) (Info, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.commitErr != nil {
		return Info{}, c.commitErr
	}
	if end.SizeBytes != int64(c.b.Len()) {
		return Info{}, ErrShort
	}
	c.committed = true
	return Info{SizeBytes: end.SizeBytes}, nil
}

func (c *collector) Abort(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.aborted++
	return nil
}

func (c *collector) length() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.Len()
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// waitFor polls until something is so.
func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 6000 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s does not happen", what)
}

func TestSpool(t *testing.T) {
	dir := t.TempDir()
	c := &collector{block: make(chan struct{})}
	w, err := Spool(t.Context(), c, SpoolOptions{Dir: dir, LimitBytes: 1_000_003})
	if err != nil {
		t.Fatal(err)
	}
	b := pattern(1_000_003)
	if _, err := w.Write(b); err != nil { // nobody takes anything yet
		t.Fatal(err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Errorf("the spool has a name: %v, %v", names, err)
	}
	written := make(chan error, 1)
	go func() {
		_, err := w.Write(b) // more than there is room for
		written <- err
	}()
	select {
	case err := <-written:
		t.Fatalf("more than the bound is taken: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(c.block)
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	info, err := w.Commit(t.Context(), End{SizeBytes: int64(2 * len(b))})
	if err != nil || info.SizeBytes != int64(2*len(b)) || !bytes.Equal(c.b.Bytes(), append(slices.Clone(b), b...)) {
		t.Errorf("%+v, %v, %d bytes", info, err, c.b.Len())
	}
	if err := w.Abort(t.Context()); err != nil || c.aborted != 0 {
		t.Errorf("abort behind commit: %v, %d", err, c.aborted)
	}
}

func TestSpoolFails(t *testing.T) {
	t.Run("behind", func(t *testing.T) {
		c := &collector{failAfter: 500_000}
		w, err := Spool(t.Context(), c, SpoolOptions{LimitBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if _, err = w.Write(pattern(100_000)); err != nil {
				break
			}
		}
		if !errors.Is(err, errWrite) {
			t.Errorf("write: %v", err)
		}
		if _, err := w.Commit(t.Context(), End{SizeBytes: 1}); !errors.Is(err, errWrite) || c.committed || c.aborted != 1 {
			t.Errorf("commit: %v, %+v", err, c.aborted)
		}
	})
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := &collector{ctx: ctx, block: make(chan struct{})}
		w, err := Spool(ctx, c, SpoolOptions{LimitBytes: 1000})
		if err != nil {
			t.Fatal(err)
		}
		written := make(chan error, 1)
		go func() {
			_, err := w.Write(pattern(5000))
			written <- err
		}()
		cancel()
		if err := <-written; !errors.Is(err, context.Canceled) {
			t.Errorf("write: %v", err)
		}
		if err := w.Abort(t.Context()); err != nil || c.aborted != 1 {
			t.Errorf("abort: %v, %d", err, c.aborted)
		}
	})
	t.Run("directory", func(t *testing.T) {
		if _, err := Spool(t.Context(), &collector{}, SpoolOptions{Dir: t.TempDir() + "/gone", LimitBytes: 1}); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("abort while it waits", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := &collector{ctx: ctx, block: make(chan struct{})}
		w, err := Spool(ctx, c, SpoolOptions{LimitBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(pattern(1000)); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "a write", c.waits.Load)
		short, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer stop()
		if err := w.Abort(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("abort does not wait for a write that hangs: %v", err)
		}
		cancel() // then the write ends, and what it was for is aborted
		waitFor(t, "the abort", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.aborted == 1 })
	})
}

func TestTee(t *testing.T) {
	a, b := &collector{}, &collector{}
	w := Tee(t.Context(), Branch{Name: "a", Writer: a}, Branch{Name: "b", Writer: b, Optional: true})
	p := pattern(5_000_001)
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(t.Context(), End{SizeBytes: int64(len(p))}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.b.Bytes(), p) || !bytes.Equal(b.b.Bytes(), p) || !a.committed || !b.committed || len(w.Failed()) > 0 {
		t.Errorf("%d and %d bytes, %v", a.b.Len(), b.b.Len(), w.Failed())
	}
}

func TestTeeFails(t *testing.T) {
	p := pattern(3_000_000)
	for name, c := range map[string]struct {
		a, b         *collector
		optional     bool // b
		err          error
		aCommitted   bool
		failedBranch bool
	}{
		"required":             {&collector{}, &collector{failAfter: 1000}, false, errWrite, false, false},
		"optional":             {&collector{}, &collector{failAfter: 1000}, true, nil, true, true},
		"the only one left":    {&collector{failAfter: 1000}, &collector{}, true, errWrite, false, false},
		"required at commit":   {&collector{}, &collector{commitErr: ErrExists}, false, ErrExists, true, false},
		"optional at commit":   {&collector{}, &collector{commitErr: ErrExists}, true, nil, true, true},
		"the first, at commit": {&collector{commitErr: ErrExists}, &collector{}, false, ErrExists, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := Tee(t.Context(), Branch{Name: "a", Writer: c.a}, Branch{Name: "b", Writer: c.b, Optional: c.optional})
			_, err := w.Write(p)
			if err == nil {
				_, err = w.Commit(t.Context(), End{SizeBytes: int64(len(p))})
			}
			if !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			if aerr := w.Abort(t.Context()); aerr != nil {
				t.Error(aerr)
			}
			if c.a.committed != c.aCommitted || (len(w.Failed()) == 1) != c.failedBranch {
				t.Errorf("a committed %v, failed %v", c.a.committed, w.Failed())
			}
			for n, x := range map[string]*collector{"a": c.a, "b": c.b} {
				if x.committed && x.aborted > 0 || !x.committed && x.commitErr == nil && x.aborted == 0 {
					t.Errorf("%s: committed %v, aborted %d times", n, x.committed, x.aborted)
				}
			}
			if err != nil && c.aCommitted && !strings.Contains(err.Error(), "left there: a") {
				t.Errorf("the error does not say what is stored: %v", err)
			}
		})
	}
}

// TestTeeSlow has the slower of two branches hold up the other by a bounded amount.
func TestTeeSlow(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	fast, slow := &collector{}, &collector{ctx: ctx, block: make(chan struct{})}
	w := Tee(ctx, Branch{Name: "fast", Writer: fast}, Branch{Name: "slow", Writer: slow})
	written := make(chan error, 1)
	go func() {
		_, err := w.Write(pattern(200 << 20))
		written <- err
	}()
	waitFor(t, "the fast branch", func() bool { return fast.length() > 0 })
	cancel()
	if err := <-written; !errors.Is(err, context.Canceled) {
		t.Errorf("write: %v", err)
	}
	if n := fast.length(); n > 100<<20 {
		t.Errorf("the fast branch has got %d bytes while the slow one stood", n)
	}
	if err := w.Abort(t.Context()); err != nil || fast.aborted != 1 || slow.aborted != 1 {
		t.Errorf("abort: %v, %d, %d", err, fast.aborted, slow.aborted)
	}
}

func TestCountAndRate(t *testing.T) {
	c, n := &collector{}, new(Counters)
	w := LimitRate(t.Context(), Count(c, n), NewRate(10<<20))
	began := time.Now()
	p := pattern(4 << 20)
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 200*time.Millisecond { // 400 ms, less the burst
		t.Errorf("4 MiB at 10 MiB/s take %v", took)
	}
	if n.Written.Load() != int64(len(p)) {
		t.Errorf("%d bytes are counted as written", n.Written.Load())
	}
	if _, err := w.Commit(t.Context(), End{SizeBytes: int64(len(p))}); err != nil || n.Stored.Load() != int64(len(p)) {
		t.Errorf("%v, %d bytes are counted as stored", err, n.Stored.Load())
	}
	// Who waits for its turn ends with the context.
	ctx, cancel := context.WithCancel(t.Context())
	w = LimitRate(ctx, &collector{}, NewRate(1000))
	written := make(chan error, 1)
	go func() {
		_, err := w.Write(pattern(1 << 20))
		written <- err
	}()
	cancel()
	if err := <-written; !errors.Is(err, context.Canceled) {
		t.Errorf("write: %v", err)
	}
}

// flaky is a sink whose calls fail a number of times.
type flaky struct {
	Sink
	failures int // that are left
	err      error
	calls    int
	b        []byte
	version  string
	breakAt  int // a reader from Open breaks there; 0: it does not
}

func (f *flaky) Capabilities() Capabilities { return Capabilities{Read: true, Range: true, Stat: true} }

func (f *flaky) try() error {
	if f.calls++; f.failures > 0 {
		f.failures--
		return f.err
	}
	return nil
}

func (f *flaky) Stat(context.Context, string) (Info, error) {
	return Info{SizeBytes: int64(len(f.b)), Version: f.version}, f.try()
}

func (f *flaky) Open(context.Context, string) (io.ReadCloser, Info, error) {
	r := io.Reader(bytes.NewReader(f.b))
	if f.breakAt > 0 {
		r = io.MultiReader(bytes.NewReader(f.b[:f.breakAt]), iotest.ErrReader(fmt.Errorf("broken: %w", ErrTransient)))
	}
	return io.NopCloser(r), Info{SizeBytes: int64(len(f.b)), Version: "1"}, f.try()
}

func (f *flaky) OpenAt(context.Context, string) (RangeReader, error) {
	return &flakyRange{f}, f.try()
}

type flakyRange struct{ f *flaky }

func (r *flakyRange) Info() Info   { return Info{SizeBytes: int64(len(r.f.b)), Version: r.f.version} }
func (r *flakyRange) Close() error { return nil }
func (r *flakyRange) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(r.f.b).ReadAt(p, off)
}

func TestRetry(t *testing.T) {
	transient := fmt.Errorf("busy: %w", ErrTransient)
	quick := Backoff{Tries: 4, First: time.Millisecond, Max: 2 * time.Millisecond}
	for name, c := range map[string]struct {
		failures, calls int
		err             error
		ok              bool
	}{
		"at once":   {0, 1, nil, true},
		"later":     {3, 4, transient, true},
		"never":     {100, 4, transient, false},
		"for good":  {100, 1, ErrNotExist, false},
		"two kinds": {100, 4, errors.Join(transient, ErrNotExist), false},
	} {
		f := &flaky{failures: c.failures, err: c.err}
		_, err := Retry(Retry(f, quick, nil), quick, nil).Stat(t.Context(), "k") // once more changes nothing
		if (err == nil) != c.ok || f.calls != c.calls {
			t.Errorf("%s: %d calls, %v", name, f.calls, err)
		}
		if c.err != nil && !c.ok && (errors.Is(err, ErrTransient) || errors.Is(c.err, ErrNotExist) != errors.Is(err, ErrNotExist)) {
			t.Errorf("%s: %v is of another kind", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := &flaky{failures: 100, err: transient}
	if _, err := Retry(f, Backoff{First: time.Hour}, nil).Stat(ctx, "k"); !errors.Is(err, context.Canceled) {
		t.Errorf("it waits behind the end of the context: %v", err)
	}
}

func TestRetryReader(t *testing.T) {
	b := pattern(100_000)
	quick := Backoff{Tries: 3, First: time.Millisecond, Max: 2 * time.Millisecond}
	for name, c := range map[string]struct {
		version string
		ok      bool
	}{"the same": {"1", true}, "another": {"2", false}} {
		f := &flaky{b: b, version: c.version, breakAt: 33_333}
		r, _, err := Retry(f, quick, nil).Open(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if (err == nil) != c.ok || c.ok && !bytes.Equal(got, b) {
			t.Errorf("%s version: %d bytes, %v", name, len(got), err)
		}
		if !c.ok && !bytes.Equal(got, b[:len(got)]) {
			t.Errorf("%s version: bytes of another object come", name)
		}
	}
}

func FuzzTarget(f *testing.F) {
	known := []Option{{Name: "a"}, {Name: "b"}}
	for _, s := range []string{"s3://bucket/key?a=1&b=%20", "file:/x", "exec:cat > x?a=b", "ssh://u@h:22/p#f", "x://u:p@h/", "c:\\x", "ab:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		target, ok := ParseTarget(s)
		if !ok {
			return
		}
		if target.String() != s {
			t.Fatalf("%q becomes %q", s, target)
		}
		if _, _, options, err := target.URL(known); err == nil {
			for name := range options {
				if name != "a" && name != "b" {
					t.Fatalf("option %q is taken", name)
				}
			}
		} else if !errors.Is(err, ErrTarget) {
			t.Fatalf("%q: %v", s, err)
		}
	})
}
