// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/vmstream/vmstream/internal/s3lab"
	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/sinktest"
)

// quick lets tests fail as often and not as slowly.
var quick = sinks.Backoff{Tries: 6, First: time.Millisecond, Max: 20 * time.Millisecond}

// logbook collects what is logged.
type logbook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// open returns the sink of a bucket behind an address.
func open(tb testing.TB, address, bucket, options string) *sink {
	tb.Helper()
	s, _, _ := openLogged(tb, address, bucket, options)
	return s
}

func openLogged(tb testing.TB, address, bucket, options string) (*sink, string, *logbook) {
	tb.Helper()
	log := &logbook{}
	rest := "//" + bucket + "/dir/?path-style=1&endpoint=http://" + address
	if options != "" {
		rest += "&" + options
	}
	opened, key, err := Driver().Open(tb.Context(), sinks.Target{Scheme: scheme, Rest: rest}, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = opened.Close() })
	s := opened.(*sink)
	s.backoff = quick
	return s, key, log
}

// noise returns bytes that do not repeat, the same for the same seed.
func noise(seed uint64, size int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	b := make([]byte, size)
	_, _ = r.Read(b)
	return b
}

// store writes an object in pieces of odd lengths.
func store(ctx context.Context, s sinks.Sink, key string, content []byte, o sinks.CreateOptions) (sinks.Info, error) {
	w, err := s.Create(ctx, key, o)
	if err != nil {
		return sinks.Info{}, err
	}
	for rest := content; len(rest) > 0; {
		n := min(len(rest), 1_000_003)
		if _, err := w.Write(rest[:n]); err != nil {
			return sinks.Info{}, errors.Join(err, w.Abort(ctx))
		}
		rest = rest[n:]
	}
	info, err := w.Commit(ctx, sinks.End{SizeBytes: int64(len(content))})
	return info, errors.Join(err, w.Abort(ctx))
}

func load(ctx context.Context, s sinks.Sink, key string) ([]byte, error) {
	r, _, err := s.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

// has fails the test if another client does not see the content.
func has(tb testing.TB, server *s3lab.Server, bucket, key string, want []byte) {
	tb.Helper()
	o, err := server.Client().GetObject(tb.Context(), bucket, key, minio.GetObjectOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	defer o.Close()
	got, err := io.ReadAll(o)
	if err != nil || !bytes.Equal(got, want) {
		tb.Fatalf("%s has %d bytes (%v) that are not the %d written", key, len(got), err, len(want))
	}
}

// uploadsLeft returns how many uploads of a bucket are incomplete.
func uploadsLeft(tb testing.TB, server *s3lab.Server, bucket string) int {
	tb.Helper()
	core := minio.Core{Client: server.Client()}
	page, err := core.ListMultipartUploads(tb.Context(), bucket, "", "", "", "", 1000)
	if err != nil {
		tb.Fatal(err)
	}
	return len(page.Uploads)
}

func TestContract(t *testing.T) {
	s3lab.Login(t)
	s3lab.Each(t, func(t *testing.T, server *s3lab.Server) {
		for _, options := range []string{"part-size=5M&parallel=2", "parallel=1&memory=16M&part-size=16M", "equal-parts=1"} {
			t.Run(options, func(t *testing.T) {
				bucket := server.Bucket(t, false)
				sinktest.Run(t, sinktest.Options{Open: func(tb testing.TB) (sinks.Sink, string) {
					s, key, _ := openLogged(tb, server.Endpoint, bucket, options)
					return s, key
				}})
				if n := uploadsLeft(t, server, bucket); n > 0 {
					t.Errorf("%d uploads are left", n)
				}
			})
		}
	})
}

func TestObjects(t *testing.T) {
	s3lab.Login(t)
	s3lab.Each(t, func(t *testing.T, server *s3lab.Server) {
		bucket := server.Bucket(t, false)
		s := open(t, server.Endpoint, bucket, "part-size=5M&parallel=2")
		for _, size := range []int{0, 1, 5<<20 - 1, 5 << 20, 5<<20 + 1, 10 << 20, 23 << 20} {
			key := fmt.Sprintf("a b/%d+ü%%.tar", size)
			content := noise(uint64(size), size)
			info, err := store(t.Context(), s, key, content, sinks.CreateOptions{ID: "id-1"})
			if err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			if info.SizeBytes != int64(size) || info.Version == "" || info.Modified.IsZero() {
				t.Errorf("Commit tells %+v", info)
			}
			has(t, server, bucket, key, content)
			if got, err := load(t.Context(), s, key); err != nil || !bytes.Equal(got, content) {
				t.Fatalf("%d bytes come back, %v", len(got), err)
			}
			if seen, err := s.Stat(t.Context(), key); err != nil || seen.Version != info.Version {
				t.Errorf("Stat tells %+v, %v", seen, err)
			}
			testRanges(t, s, key, content)
		}
		var keys []string
		for info, err := range s.List(t.Context(), "a b/") {
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, info.Key)
		}
		if len(keys) != 7 {
			t.Errorf("List tells of %q", keys)
		}
	})
}

func testRanges(t *testing.T, s sinks.Sink, key string, content []byte) {
	t.Helper()
	r, err := s.OpenAt(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	size := len(content)
	for _, at := range [][2]int{{0, size}, {0, 10}, {5<<20 - 3, 10}, {size - 1, 1}, {size, 1}, {size - 1, 10}, {size + 5, 1}} {
		off, n := max(at[0], 0), at[1]
		want := content[min(off, size):min(off+n, size)]
		p := make([]byte, n)
		got, err := r.ReadAt(p, int64(off))
		if !bytes.Equal(p[:got], want) || (len(want) < n) != errors.Is(err, io.EOF) || err != nil && !errors.Is(err, io.EOF) {
			t.Errorf("ReadAt(%d, %d) of %d bytes gives %d, %v", off, n, size, got, err)
		}
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := r.ReadAt(make([]byte, 1), 0); err == nil {
		t.Error("ReadAt after Close succeeds")
	}
}

// TestRace lets two writers of a key commit.
func TestRace(t *testing.T) {
	s3lab.Login(t)
	s3lab.Each(t, func(t *testing.T, server *s3lab.Server) {
		bucket := server.Bucket(t, false)
		s := open(t, server.Endpoint, bucket, "part-size=5M")
		for _, size := range []int{100, 6 << 20} {
			key := fmt.Sprint("race", size)
			var all []sinks.Writer
			for range 2 {
				w, err := s.Create(t.Context(), key, sinks.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := w.Write(noise(1, size)); err != nil {
					t.Fatal(err)
				}
				all = append(all, w)
			}
			end := sinks.End{SizeBytes: int64(size)}
			if _, err := all[1].Commit(t.Context(), end); err != nil {
				t.Fatal(err)
			}
			if _, err := all[0].Commit(t.Context(), end); !errors.Is(err, sinks.ErrExists) {
				t.Errorf("the second Commit gives %v", err)
			}
		}
		if n := uploadsLeft(t, server, bucket); n > 0 {
			t.Errorf("%d uploads are left", n)
		}
	})
}

func TestLock(t *testing.T) {
	s3lab.Login(t)
	s3lab.Each(t, func(t *testing.T, server *s3lab.Server) {
		bucket := server.Bucket(t, true)
		for i, options := range []string{"retention=governance&retain-days=1", "retention=compliance&retain-until=2099-01-01T00:00:00Z", "legal-hold=1"} {
			s := open(t, server.Endpoint, bucket, "part-size=5M&"+options)
			for _, size := range []int{100, 6 << 20} {
				key := fmt.Sprintf("held-%d-%d", i, size)
				if _, err := store(t.Context(), s, key, noise(2, size), sinks.CreateOptions{}); err != nil {
					t.Fatalf("%s: %v", options, err)
				}
				if err := s.Delete(t.Context(), key); err == nil || !strings.Contains(err.Error(), "lock") && !strings.Contains(err.Error(), "hold") {
					t.Errorf("%s: Delete gives %v", options, err)
				}
				has(t, server, bucket, key, noise(2, size))
			}
			plain := open(t, server.Endpoint, server.Bucket(t, false), "part-size=5M&"+options)
			for _, size := range []int{100, 6 << 20} {
				if _, err := store(t.Context(), plain, "k", noise(2, size), sinks.CreateOptions{}); !errors.Is(err, sinks.ErrUnsupported) {
					t.Errorf("%s in a bucket without locks gives %v", options, err)
				}
			}
		}
	})
}
