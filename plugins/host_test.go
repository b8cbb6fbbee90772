// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/sinktest"
)

// TestConformance runs the checks that all sinks pass on one in another process.
func TestConformance(t *testing.T) {
	for _, pipes := range []bool{true, false} {
		t.Run(map[bool]string{true: "pipes", false: "messages"}[pipes], func(t *testing.T) {
			sinktest.Run(t, sinktest.Options{Open: func(t testing.TB) (sinks.Sink, string) {
				s, key := openSink(t, testHost(t), tempTarget(t))
				if !pipes {
					s.p.in, s.p.out = nil, nil
				}
				return s, key
			}})
		})
	}
}

// gone fails the test if the process of a sink does not end.
func gone(t *testing.T, s *remote) {
	t.Helper()
	select {
	case <-s.p.child.done:
	case <-time.After(time.Minute):
		t.Error("the process is still there")
	}
}

// group runs subtests that wait most of the time, several at a time, also where there
// are few processors.
type group struct {
	t     *testing.T
	all   sync.WaitGroup
	turns chan struct{}
}

const groupCount = 8

func newGroup(t *testing.T) *group {
	g := &group{t: t, turns: make(chan struct{}, groupCount)}
	t.Parallel()
	return g
}

// run begins a subtest. wait must be called in the end.
func (g *group) run(name string, f func(*testing.T)) {
	g.all.Go(func() {
		g.turns <- struct{}{}
		defer func() { <-g.turns }()
		g.t.Run(name, f)
	})
}

func (g *group) wait() { g.all.Wait() }

const stuckTime = 2 * time.Minute // in which nothing takes as long that goes on

// within fails the test if f does not end.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(stuckTime):
		t.Fatalf("%s hangs", what)
	}
}

// store writes an object of some MiB.
func store(ctx context.Context, s sinks.Sink, key string) error {
	w, err := s.Create(ctx, key, sinks.CreateOptions{})
	if err != nil {
		return err
	}
	const pieces = 40
	for range pieces {
		if _, err := w.Write(make([]byte, 100_000)); err != nil {
			return errors.Join(err, w.Abort(context.WithoutCancel(ctx)))
		}
	}
	_, err = w.Commit(ctx, sinks.End{SizeBytes: pieces * 100_000})
	return err
}

// TestBadSinks stores an object in sinks that go wrong.
func TestBadSinks(t *testing.T) {
	g := newGroup(t)
	defer g.wait()
	cases := []struct {
		how   string
		kinds []error // of the error
		says  string  // the error
		after time.Duration
	}{
		{how: "is-good"},
		{how: "dies-in-create", kinds: []error{errGone}, says: "exit status 7"},
		{how: "dies-in-write", kinds: []error{errGone}, says: "exit status 7"},
		{how: "dies-in-commit", kinds: []error{errGone, sinks.ErrUnknown}, says: "exit status 7"},
		{how: "fails-in-create", kinds: []error{sinks.ErrExists}, says: "it is there"},
		{how: "fails-in-write", kinds: []error{sinks.ErrTransient}, says: "no room"},
		{how: "fails-in-commit", kinds: []error{sinks.ErrShort}, says: "one byte is missing"},
		{how: "hangs-in-create", kinds: []error{context.DeadlineExceeded}, after: time.Second},
		{how: "hangs-in-write", kinds: []error{context.DeadlineExceeded}, after: time.Second},
		{how: "waits-in-write", kinds: []error{context.DeadlineExceeded}, after: time.Second},
		{how: "hangs-in-commit", kinds: []error{context.DeadlineExceeded, sinks.ErrUnknown}, after: time.Second},
		{how: "lies-about-size", kinds: []error{errAnswer, sinks.ErrUnknown}, says: "3999999 bytes"},
		{how: "lies-about-key", kinds: []error{errAnswer, sinks.ErrUnknown}, says: `"another"`},
		{how: "stops", kinds: []error{errGone}, says: "killed"},
		{how: "dies-in-close"},
		{how: "hangs-in-close"},
		{how: "leaves-a-child"},
	}
	for _, c := range cases {
		for _, pipes := range []bool{true, false} {
			g.run(c.how+map[bool]string{true: "", false: "-in-messages"}[pipes], func(t *testing.T) {
				h := testHost(t)
				h.time.tidy = time.Second
				if strings.HasPrefix(c.how, "hangs") { // nobody answers, however long it is waited for
					h.time.abort, h.time.end = time.Second, time.Second
				}
				if c.how == "stops" {
					h.time.check, h.time.respond = 100*time.Millisecond, 2*time.Second
				}
				s, key := openSink(t, h, "bad:"+c.how)
				if !pipes {
					s.p.in, s.p.out = nil, nil
				}
				ctx := t.Context()
				if c.after > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.after)
					defer cancel()
				}
				within(t, "store", func() { check(t, store(ctx, s, key), c.says, c.kinds...) })
				within(t, "close", func() { _ = s.Close() })
				gone(t, s)
			})
		}
	}
}

// check checks an error.
func check(t *testing.T, err error, says string, kinds ...error) {
	t.Helper()
	if (err != nil) != (len(kinds) > 0) {
		t.Errorf("got %v", err)
		return
	}
	for _, k := range kinds {
		if !errors.Is(err, k) {
			t.Errorf("%v: is not: %v", err, k)
		}
	}
	if err != nil && !strings.Contains(err.Error(), says) {
		t.Errorf("%v: does not say %q", err, says)
	}
}

// TestBadWire stores and reads with plugins that do not keep to the protocol.
func TestBadWire(t *testing.T) {
	g := newGroup(t)
	defer g.wait()
	for _, how := range []string{
		"ready-twice", "answers-without-end", "done-first", "done-early", "ends-early", "closes-pipe", "empty-answer", "long-answer",
	} {
		g.run(how, func(t *testing.T) {
			h := testHost(t)
			h.time.abort, h.time.tidy = 2*time.Second, time.Second
			s, _ := openSink(t, h, "wire:")
			within(t, "store", func() {
				if err := store(t.Context(), s, how); err == nil {
					t.Error("stored")
				} else {
					t.Log(err)
				}
			})
			within(t, "close", func() { _ = s.Close() })
			gone(t, s)
		})
	}
	for _, how := range []string{"end-without-data", "end-without-opened", "long-frame", "data-without-end", "ends-call", "opened-without-info"} {
		g.run(how, func(t *testing.T) {
			h := testHost(t)
			h.time.tidy = time.Second
			s, _ := openSink(t, h, "wire:")
			within(t, "read", func() {
				err := readAll(t.Context(), s, how)
				if !errors.Is(err, errAnswer) && !errors.Is(err, errFrame) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("got %v", err)
				}
			})
			within(t, "close", func() { _ = s.Close() })
			gone(t, s)
		})
	}
	g.run("list", func(t *testing.T) {
		s, _ := openSink(t, testHost(t), "wire:")
		for _, err := range s.List(t.Context(), "") {
			check(t, err, "1001", errAnswer)
		}
	})
}

func readAll(ctx context.Context, s sinks.Sink, key string) error {
	r, i, err := s.Open(ctx, key)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, r)
	if err == nil && n != i.SizeBytes {
		err = errors.New("another length")
	}
	return errors.Join(err, r.Close())
}

// TestBadReads reads from sinks that go wrong.
func TestBadReads(t *testing.T) {
	g := newGroup(t)
	defer g.wait()
	for _, c := range []struct {
		how, says string
		kinds     []error
	}{
		{how: "reads-short", says: "of 3145728 bytes", kinds: []error{io.ErrUnexpectedEOF}},
		{how: "reads-long", says: "more than", kinds: []error{errAnswer}},
		{how: "fails-in-read", says: "lost", kinds: []error{sinks.ErrTransient}},
		{how: "hangs-in-read", kinds: []error{context.DeadlineExceeded}},
		{how: "dies-in-read", says: "exit status 7", kinds: []error{errGone}},
	} {
		for _, pipes := range []bool{true, false} {
			g.run(c.how+map[bool]string{true: "", false: "-in-messages"}[pipes], func(t *testing.T) {
				s, key := openSink(t, testHost(t), "bad:"+c.how)
				if !pipes {
					s.p.in, s.p.out = nil, nil
				}
				ctx := t.Context()
				if c.how == "hangs-in-read" {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, 2*time.Second)
					defer cancel()
				}
				within(t, "read", func() { check(t, readAll(ctx, s, key), c.says, c.kinds...) })
				if pipes && c.how != "dies-in-read" { // the pipes are as they were
					for _, l := range s.p.out {
						if l.take() == nil {
							t.Fatal("a pipe is out of step")
						}
						l.leave(true)
					}
				}
			})
		}
	}
}

// TestBadAnswers asks sinks that tell what cannot be.
func TestBadAnswers(t *testing.T) {
	g := newGroup(t)
	defer g.wait()
	for _, c := range []struct {
		how, says string
		kind      error
	}{
		{"stats-another", `"another"`, errAnswer},
		{"stats-negative", "-2 bytes", errAnswer},
		{"stats-nothing", "key: ", sinks.ErrNotExist},
		{"lists-out-of-order", "behind", errAnswer},
		{"lists-another", `"another"`, errAnswer},
		{"lists-negative", "-2 bytes", errAnswer},
		{"lists-long-key", "a key of", errAnswer},
		{"fails-in-list", "lost", sinks.ErrTransient},
		{"fails-in-range", "lost", sinks.ErrTransient},
		{"dies-in-range", "exit status 7", errGone},
	} {
		g.run(c.how, func(t *testing.T) {
			s, key := openSink(t, testHost(t), "bad:"+c.how)
			var err error
			switch {
			case strings.HasPrefix(c.how, "stats"):
				_, err = s.Stat(t.Context(), key)
			case strings.HasSuffix(c.how, "range"):
				r, openErr := s.OpenAt(t.Context(), key)
				if openErr != nil {
					t.Fatal(openErr)
				}
				_, err = r.ReadAt(make([]byte, 10), 5)
				_ = r.Close()
			default:
				n := 0
				for _, e := range s.List(t.Context(), "p/") {
					n++
					err = e
				}
				if n != 2501 {
					t.Errorf("%d objects", n)
				}
			}
			check(t, err, c.says, c.kind)
		})
	}
}

// TestBadOpen opens what cannot be opened.
func TestBadOpen(t *testing.T) {
	g := newGroup(t)
	defer g.wait()
	for target, says := range map[string]string{
		"dead:": "does not start as a plugin", "mute:": "timeout", "garbage:": "Hello, I am a plugin", "flood:": "xxx",
		"netrpc:": "unsupported plugin protocol", "tcp:": "Unix socket", "plain:": "no answer", "orphan:": "does not start",
		"version0:": "Plugin version: 0, Client versions: [1]", "version2:": "Plugin version: 2, Client versions: [1]",
		"bad:dies-in-open": "exit status 7", "bad:fails-in-open": "no such ?[31mplace", "bad:hangs-in-open": "deadline",
		"nothing:": "no sink is called nothing", "BAD:": "no sink can be called",
	} {
		g.run(target, func(t *testing.T) {
			h := testHost(t)
			if target == "mute:" {
				h.time.start = 2 * time.Second
			}
			ctx := t.Context()
			if target == "bad:hangs-in-open" {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 2*time.Second)
				defer cancel()
			}
			scheme, rest, _ := strings.Cut(target, ":")
			within(t, "open", func() {
				_, _, err := h.Open(ctx, sinks.Target{Scheme: scheme, Rest: rest})
				if err == nil || !strings.Contains(err.Error(), says) || len(err.Error()) > 10_000 {
					t.Errorf("got %.10000v, want %q", err, says)
				}
				if target == "bad:fails-in-open" && (!errors.Is(err, sinks.ErrTarget) || !errors.Is(err, sinks.ErrTransient)) {
					t.Errorf("%v has lost its kinds", err)
				}
			})
		})
	}
	g.run("given up", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		within(t, "open", func() {
			_, _, err := testHost(t).Open(ctx, sinks.Target{Scheme: "mute"})
			check(t, err, "", context.DeadlineExceeded)
		})
	})
}

// TestVersions has a plugin that speaks also a version that is not known.
func TestVersions(t *testing.T) {
	s, key := openSink(t, testHost(t), "version12:is-good")
	if err := store(t.Context(), s, key); err != nil {
		t.Fatal(err)
	}
	if v := s.p.client.NegotiatedVersion(); v != 1 {
		t.Errorf("version %d", v)
	}
}

// TestAborts gives up, and goes on to use the sink and its pipe.
func TestAborts(t *testing.T) {
	s, key := openSink(t, testHost(t), "bad:is-good")
	for i := range 20 {
		w, err := s.Create(t.Context(), key, sinks.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, i*100_000)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Abort(t.Context()), w.Abort(t.Context())); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(nil); err == nil {
			t.Error("written behind the end")
		}
		if err := store(t.Context(), s, key); err != nil {
			t.Fatal(err)
		}
		if s.p.in.broken {
			t.Fatal("the pipe is out of step")
		}
	}
	s, key = openSink(t, testHost(t), "bad:fails-in-abort")
	w, err := s.Create(t.Context(), key, sinks.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Abort(t.Context()); err == nil || err.Error() != "it cannot be removed" {
		t.Errorf("got %v", err)
	}
}

// TestAtOnce has several writers and readers; one of each has a pipe.
func TestAtOnce(t *testing.T) {
	s, prefix := openSink(t, testHost(t), tempTarget(t))
	var all [4]chan error
	for i := range all {
		all[i] = make(chan error, 1)
		go func() {
			key := prefix + string(rune('a'+i))
			content := bytes.Repeat([]byte{byte(i)}, 5<<20+i)
			all[i] <- func() error {
				w, err := s.Create(t.Context(), key, sinks.CreateOptions{})
				if err != nil {
					return err
				}
				if _, err := w.Write(content); err != nil {
					return err
				}
				if _, err := w.Commit(t.Context(), sinks.End{SizeBytes: int64(len(content))}); err != nil {
					return err
				}
				r, err := s.OpenAt(t.Context(), key)
				if err != nil {
					return err
				}
				got := make([]byte, len(content)+5)
				n, err := r.ReadAt(got, 0)
				if !errors.Is(err, io.EOF) || !bytes.Equal(got[:n], content) {
					return errors.Join(errors.New("another content"), err)
				}
				if n, err := r.ReadAt(got[:7], 100); n != 7 || err != nil {
					return errors.Join(errors.New("a range"), err)
				}
				if n, err := r.ReadAt(got[:7], int64(len(content))); n != 0 || !errors.Is(err, io.EOF) {
					return errors.Join(errors.New("behind the end"), err)
				}
				return r.Close()
			}()
		}()
	}
	for i := range all {
		if err := <-all[i]; err != nil {
			t.Error(i, err)
		}
	}
	var keys []string
	for i, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, i.Key)
	}
	if !slices.Equal(keys, []string{prefix + "a", prefix + "b", prefix + "c", prefix + "d"}) {
		t.Errorf("%q", keys)
	}
	if err := errors.Join(s.Delete(t.Context(), keys[0]), s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	if _, err := s.Stat(t.Context(), keys[1]); !errors.Is(err, errGone) {
		t.Errorf("after Close: %v", err)
	}
}
