// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package readahead

import (
	"bytes"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// What is read in order is asked for once, before it is read, and not too long before.
func TestWindow(t *testing.T) {
	for _, end := range []int64{1, Bytes / 2, Bytes + 1, 5*Bytes + 77} {
		for _, step := range []int64{1 << 10, 1 << 20, 3 << 20} {
			const start = 1 << 40
			var w Window
			asked := int64(start)
			for at := int64(0); at < end; at += step {
				w.Reach(start+at, start+end, func(from, to int64) {
					if from != asked || to <= from || to > start+end || to-start-at > Bytes {
						t.Fatalf("at %d of %d in steps of %d: [%d, %d) is asked for, behind %d", at, end, step, from-start, to-start, asked-start)
					}
					asked = to
				})
				if least := min(at+Bytes/2, end); asked-start < least {
					t.Fatalf("at %d of %d: nothing behind %d is asked for", at, end, asked-start)
				}
			}
			if asked != start+end {
				t.Errorf("%d of %d in steps of %d are asked for", asked-start, end, step)
			}
		}
	}
}

// Nothing is asked for of what has been passed over.
func TestWindowJumps(t *testing.T) {
	var w Window
	var got [][2]int64
	ask := func(from, to int64) { got = append(got, [2]int64{from, to}) }
	w.Reach(0, math.MaxInt64, ask)
	w.Reach(Bytes/4, math.MaxInt64, ask)
	w.Reach(10*Bytes, math.MaxInt64, ask)
	if want := [2]int64{10 * Bytes, 11 * Bytes}; len(got) != 2 || got[1] != want {
		t.Errorf("asked for %v", got)
	}
}

func contentFile(t *testing.T, size int) (*os.File, []byte) {
	t.Helper()
	content := make([]byte, size)
	rand.NewChaCha8([32]byte{2}).Read(content)
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, content
}

// A reader goes on where the file stands, and takes it along.
func TestReader(t *testing.T) {
	f, content := contentFile(t, 2*AtOnce+5)
	if _, err := f.Seek(7, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	r := NewReader(f, 7)
	r.gauge.left.Store(1)
	p := make([]byte, AtOnce+1)
	if n, err := r.Read(p); n != AtOnce || err != nil || !bytes.Equal(p[:n], content[7:7+n]) {
		t.Fatal(n, err)
	}
	if r.gauge.left.Load() != 1-Bytes {
		t.Errorf("%d bytes are asked for", 1-r.gauge.left.Load())
	}
	if at, err := f.Seek(0, io.SeekCurrent); at != AtOnce+7 || err != nil {
		t.Error(at, err)
	}
	rest, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(rest, content[AtOnce+7:]) {
		t.Error(len(rest), err)
	}
}

// Each of several who read a file has a window of its own.
func TestPlaces(t *testing.T) {
	const readers, share = 4, 3 * Bytes
	f, content := contentFile(t, readers*share)
	var s Places
	const budget = 1 << 40
	s.gauge.left.Store(budget)
	p := make([]byte, 1<<20)
	for at := int64(0); at < share; at += int64(len(p)) {
		for i := range int64(readers) {
			off := i*share + at
			if n, err := s.ReadAt(f, p, off); n != len(p) || err != nil || !bytes.Equal(p, content[off:off+int64(n)]) {
				t.Fatal(n, err)
			}
		}
	}
	// Each looks beyond its share, which is no harm.
	if asked := budget - s.gauge.left.Load(); asked < readers*share || asked > readers*(share+Bytes) {
		t.Errorf("%d bytes are asked for, of %d", asked, readers*share)
	}
	for i := range int64(100) { // more than have a place
		if n, err := s.ReadAt(f, p[:1], i*5003); n != 1 || err != nil || p[0] != content[i*5003] {
			t.Fatal(n, err)
		}
	}
}
