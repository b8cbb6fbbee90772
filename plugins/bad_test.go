// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/vmstream/vmstream/sinks"
)

// badDriver makes sinks that go wrong as the target says: bad:dies-in-write. What
// they store goes nowhere. All run in real processes.
type badDriver struct{}

var badCapabilities = sinks.Capabilities{Read: true, Range: true, Stat: true, List: true, Delete: true, Atomic: true, Concurrent: true}

func (badDriver) Describe() sinks.Description {
	return sinks.Description{
		Scheme: "bad", Summary: "goes wrong", Form: "bad:HOW", Capabilities: badCapabilities,
		Environment: []string{"VMSTREAM_BAD_*", "BAD_VARIABLE", "GORACE"},
	}
}

func (badDriver) Open(ctx context.Context, t sinks.Target, log *slog.Logger) (sinks.Sink, string, error) {
	switch t.Rest {
	case "dies-in-open":
		os.Exit(7)
	case "hangs-in-open":
		<-ctx.Done()
		select {}
	case "fails-in-open":
		return nil, "", fmt.Errorf("no\nsuch \x1b[31mplace: %w: %w", sinks.ErrTarget, sinks.ErrTransient)
	case "floods-logs":
		for i := range 100_000 {
			log.Warn("flood", "line", i)
		}
		fmt.Fprintln(os.Stderr, strings.Repeat("x", 1<<20))
		log.Warn("end of flood")
	}
	return &badSink{how: t.Rest}, "key", nil
}

type badSink struct{ how string }

func (s *badSink) Capabilities() sinks.Capabilities { return badCapabilities }

func (s *badSink) Create(ctx context.Context, _ string, _ sinks.CreateOptions) (sinks.Writer, error) {
	switch s.how {
	case "dies-in-create":
		os.Exit(7)
	case "hangs-in-create":
		select {}
	case "fails-in-create":
		return nil, fmt.Errorf("it is there: %w", sinks.ErrExists)
	}
	return &badWriter{how: s.how, ctx: ctx}, nil
}

type badWriter struct {
	how     string
	ctx     context.Context
	written int64
}

func (w *badWriter) Write(p []byte) (int, error) {
	switch w.how {
	case "dies-in-write":
		os.Exit(7)
	case "hangs-in-write":
		select {}
	case "waits-in-write":
		<-w.ctx.Done()
		return 0, w.ctx.Err()
	case "fails-in-write":
		return 0, fmt.Errorf("no room: %w", sinks.ErrTransient)
	case "stops":
		_ = exec.Command("kill", "-STOP", fmt.Sprint(os.Getpid())).Run()
	}
	w.written += int64(len(p))
	return len(p), nil
}

func (w *badWriter) Commit(context.Context, sinks.End) (sinks.Info, error) {
	switch w.how {
	case "dies-in-commit":
		os.Exit(7)
	case "hangs-in-commit":
		select {}
	case "fails-in-commit":
		return sinks.Info{}, fmt.Errorf("one byte is missing: %w", sinks.ErrShort)
	case "lies-about-size":
		return sinks.Info{Key: "key", SizeBytes: w.written - 1}, nil
	case "lies-about-key":
		return sinks.Info{Key: "another", SizeBytes: w.written}, nil
	}
	return sinks.Info{Key: "key", SizeBytes: w.written}, nil
}

func (w *badWriter) Abort(context.Context) error {
	switch w.how {
	case "hangs-in-abort":
		select {}
	case "fails-in-abort":
		return errors.New("it cannot be removed")
	}
	return nil
}

// badBytes is the length of every object of a bad sink.
const badBytes = 3 << 20

func (s *badSink) Open(ctx context.Context, key string) (io.ReadCloser, sinks.Info, error) {
	i := sinks.Info{Key: key, SizeBytes: badBytes}
	var r io.Reader = bytes.NewReader(make([]byte, badBytes))
	switch s.how {
	case "reads-short":
		r = bytes.NewReader(make([]byte, badBytes-1))
	case "reads-long":
		r = bytes.NewReader(make([]byte, badBytes+1))
	case "fails-in-read":
		r = io.MultiReader(bytes.NewReader(make([]byte, badBytes/2)), reads(func() error { return fmt.Errorf("lost: %w", sinks.ErrTransient) }))
	case "dies-in-read":
		r = io.MultiReader(bytes.NewReader(make([]byte, badBytes/2)), reads(func() error { os.Exit(7); return nil }))
	case "hangs-in-read":
		r = io.MultiReader(bytes.NewReader(make([]byte, badBytes/2)), reads(func() error { <-ctx.Done(); return ctx.Err() }))
	}
	return io.NopCloser(r), i, nil
}

// reads is a reader that has nothing but an error.
type reads func() error

func (f reads) Read([]byte) (int, error) { return 0, f() }

func (s *badSink) OpenAt(_ context.Context, key string) (sinks.RangeReader, error) {
	return &badRanges{how: s.how, Reader: bytes.NewReader(make([]byte, badBytes)), key: key}, nil
}

type badRanges struct {
	*bytes.Reader
	how, key string
}

func (r *badRanges) ReadAt(p []byte, offset int64) (int, error) {
	switch r.how {
	case "dies-in-range":
		os.Exit(7)
	case "fails-in-range":
		return 0, fmt.Errorf("lost: %w", sinks.ErrTransient)
	}
	return r.Reader.ReadAt(p, offset)
}

func (r *badRanges) Close() error     { return nil }
func (r *badRanges) Info() sinks.Info { return sinks.Info{Key: r.key, SizeBytes: badBytes} }

func (s *badSink) Stat(_ context.Context, key string) (sinks.Info, error) {
	i := sinks.Info{Key: key, SizeBytes: badBytes, Modified: time.Unix(1, 5), Version: "1"}
	switch s.how {
	case "stats-another":
		i.Key = "another"
	case "stats-negative":
		i.SizeBytes = -2
	case "stats-environment":
		i.Version = strings.Join(os.Environ(), "\n")
	case "stats-descriptors":
		all, _ := os.ReadDir("/proc/self/fd")
		for _, fd := range all {
			to, _ := os.Readlink("/proc/self/fd/" + fd.Name())
			i.Version += fd.Name() + " " + to + "\n"
		}
	case "stats-nothing":
		return i, fmt.Errorf("%s: %w", key, sinks.ErrNotExist)
	}
	return i, nil
}

func (s *badSink) List(_ context.Context, prefix string) iter.Seq2[sinks.Info, error] {
	return func(yield func(sinks.Info, error) bool) {
		for i := 0; i < 3000 || s.how == "lists-without-end"; i++ {
			one := sinks.Info{Key: fmt.Sprintf("%s%012d", prefix, i)}
			switch {
			case i != 2500:
			case s.how == "lists-out-of-order":
				one.Key = prefix + "0"
			case s.how == "lists-another":
				one.Key = "another"
			case s.how == "lists-negative":
				one.SizeBytes = -2
			case s.how == "lists-long-key":
				one.Key = prefix + "9" + strings.Repeat("k", maxKeyBytes)
			case s.how == "fails-in-list":
				yield(sinks.Info{}, fmt.Errorf("lost: %w", sinks.ErrTransient))
				return
			}
			if !yield(one, nil) {
				return
			}
		}
	}
}

func (s *badSink) Delete(_ context.Context, key string) error {
	return fmt.Errorf("%s: %w", key, sinks.ErrNotExist)
}

func (s *badSink) Orphans(context.Context, string) iter.Seq2[sinks.Orphan, error] {
	return func(func(sinks.Orphan, error) bool) {}
}
func (s *badSink) RemoveOrphan(context.Context, sinks.Orphan) error { return sinks.ErrUnsupported }

func (s *badSink) Close() error {
	switch s.how {
	case "dies-in-close":
		os.Exit(7)
	case "hangs-in-close":
		select {}
	case "leaves-a-child":
		// It keeps stderr open, and would outlive us all.
		c := exec.Command("sleep", "1000")
		c.Stderr = os.NewFile(2, "stderr")
		_ = c.Start()
	}
	return nil
}
