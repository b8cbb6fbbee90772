// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

// pattern returns n bytes without a zero among them that depend on seed.
func pattern(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32() | 1)
	}
	return b
}

func TestClipWrite(t *testing.T) {
	zeros, ones := make([]byte, 2048), bytes.Repeat([]byte{1}, 2048)
	tests := []struct {
		name      string
		p         []byte
		off, size int64
		want      int
		wantErr   bool
	}{
		{"inside", ones[:512], 0, 1024, 512, false},
		{"to the end", ones[:512], 512, 1024, 512, false},
		{"zeros in the last sector", zeros[:512], 512, 1000, 488, false},
		{"data behind the end", ones[:512], 512, 1000, 0, true},
		{"a sector behind the end", zeros[:1024], 512, 1024, 0, true},
		{"more than the last sector", zeros[:1024], 512, 1000, 0, true},
		{"unaligned length to the end", ones[:488], 512, 1000, 488, false},
		{"negative", ones[:512], -512, 1024, 0, true},
		{"far away", ones[:512], 1 << 62, 1024, 0, true},
		{"nothing at the end", nil, 1024, 1024, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, err := clipWrite(tt.p, tt.off, tt.size)
			if n != tt.want || (err != nil) != tt.wantErr {
				t.Errorf("clipWrite = %d, %v; want %d, error %v", n, err, tt.want, tt.wantErr)
			}
			if err != nil && !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("error %v is not fs.ErrInvalid", err)
			}
		})
	}
}

func TestRawTarget(t *testing.T) {
	const size = 3<<20 + 1000
	path := filepath.Join(t.TempDir(), "d.raw")
	w, err := CreateRaw(path, size)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	copy(want, pattern(1<<20, 1))
	copy(want[2<<20:], pattern(size-2<<20, 2))
	var wg sync.WaitGroup
	for off := 0; off < size; off += 64 << 10 {
		if off >= 1<<20 && off < 2<<20 {
			continue
		}
		wg.Go(func() {
			// Whole sectors: the last write reaches behind the end.
			p := make([]byte, 64<<10)
			p = p[:(copy(p, want[off:])+511)/512*512]
			if n, err := w.WriteAt(p, int64(off)); n != len(p) || err != nil {
				t.Errorf("WriteAt(%d bytes, %d) = %d, %v", len(p), off, n, err)
			}
		})
	}
	wg.Wait()
	if w.Ordered() {
		t.Error("a raw file need not be written in order")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w.Abort() // nothing after Close
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("content differs")
	}
	if err := w.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
}

func TestRawTargetRefusesExisting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.raw")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateRaw(path, 512); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("CreateRaw over a file: %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "mine" {
		t.Errorf("the file was changed to %q", b)
	}
	if _, err := CreateRaw(path+"2", -1); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("negative size: %v", err)
	}
}

func TestRawTargetLeavesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.raw")
	gone := func(what string) {
		t.Helper()
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s: the file is still there (%v)", what, err)
		}
	}
	w, err := CreateRaw(path, 4096)
	if err != nil {
		t.Fatal(err)
	}
	w.Abort()
	w.Abort()
	gone("abort")

	if w, err = CreateRaw(path, 4096); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt(make([]byte, 512), 4096); !errors.Is(err, fs.ErrInvalid) {
		t.Fatalf("write behind the end: %v", err)
	}
	if err := w.Close(); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("Close after a failed write: %v", err)
	}
	gone("failed write")
}

func TestStreamTarget(t *testing.T) {
	const size = 300<<10 + 100
	var out bytes.Buffer
	w := NewStreamTarget(&out, size)
	if !w.Ordered() {
		t.Error("a stream must be written in order")
	}
	want := make([]byte, size)
	copy(want[1024:], pattern(2048, 1))
	copy(want[200<<10:], pattern(512, 2))
	for _, r := range []Run{{Offset: 1024, Length: 2048}, {Offset: 200 << 10, Length: 512}} {
		if n, err := w.WriteAt(want[r.Offset:r.End()], r.Offset); n != int(r.Length) || err != nil {
			t.Fatalf("WriteAt(%v) = %d, %v", r, n, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("got %d bytes that differ from the %d expected", out.Len(), len(want))
	}
}

// limitWriter takes n bytes and then fails.
type limitWriter struct{ n int }

func (l *limitWriter) Write(p []byte) (int, error) {
	if len(p) > l.n {
		n := l.n
		l.n = 0
		return n, syscall.EPIPE
	}
	l.n -= len(p)
	return len(p), nil
}

func TestStreamTargetErrors(t *testing.T) {
	sector := make([]byte, 512)
	t.Run("step back", func(t *testing.T) {
		w := NewStreamTarget(io.Discard, 4096)
		if _, err := w.WriteAt(sector, 1024); err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteAt(sector, 512); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("error %v", err)
		}
		if err := w.Close(); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Close after it: %v", err)
		}
	})
	t.Run("closed pipe", func(t *testing.T) {
		w := NewStreamTarget(&limitWriter{n: 1000}, 1<<20)
		if _, err := w.WriteAt(sector, 1024); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("error %v", err)
		}
		if _, err := w.WriteAt(sector, 2048); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("next write: %v", err)
		}
	})
	t.Run("closed pipe at the end", func(t *testing.T) {
		w := NewStreamTarget(&limitWriter{n: 1000}, 1<<20)
		if err := w.Close(); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("Close: %v", err)
		}
	})
	t.Run("after abort", func(t *testing.T) {
		w := NewStreamTarget(io.Discard, 4096)
		w.Abort()
		if _, err := w.WriteAt(sector, 0); err == nil {
			t.Error("write after Abort worked")
		}
		if err := w.Close(); err == nil {
			t.Error("Close after Abort worked")
		}
	})
	t.Run("negative size", func(t *testing.T) {
		if err := NewStreamTarget(io.Discard, -1).Close(); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("error %v", err)
		}
	})
}

// TestSpans compares the set with one bool per unit.
func TestSpans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 64
		var model [size]bool
		var s spans
		for range rapid.IntRange(0, 30).Draw(t, "n") {
			off := rapid.Int64Range(0, size).Draw(t, "off")
			end := rapid.Int64Range(off, size).Draw(t, "end")
			s.add(off, end)
			for i := off; i < end; i++ {
				model[i] = true
			}
		}
		for i := 1; i < len(s); i++ {
			if s[i-1].end >= s[i].off {
				t.Fatalf("ranges %v and %v touch or are out of order", s[i-1], s[i])
			}
		}
		var got [size]bool
		for i := range got {
			got[i] = true
		}
		for _, g := range s.gaps(size, size+1) {
			if g.off >= g.end {
				t.Fatalf("empty gap %v", g)
			}
			for i := g.off; i < g.end; i++ {
				got[i] = false
			}
		}
		if got != model {
			t.Fatalf("set %v\n got %v\nwant %v", s, got, model)
		}
		if all := s.gaps(size, size+1); len(all) > 1 {
			if g := s.gaps(size, 1); len(g) != 1 || g[0] != all[0] {
				t.Fatalf("one gap of %v is %v", all, g)
			}
		}
	})
}
