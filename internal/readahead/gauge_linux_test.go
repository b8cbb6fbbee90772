// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package readahead

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/testenv"
)

// create makes a file of which nothing is in memory.
func create(t *testing.T, size int) (*os.File, []byte) {
	t.Helper()
	content := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(content)
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	testenv.DropPageCache(t, f)
	return f, content
}

// What is asked for is in memory without having been read; but nothing is asked for
// unless a read has waited.
func TestAsk(t *testing.T) {
	const size, at, n = 8 << 20, 3 << 20, 1<<20 + 5
	f, _ := create(t, size)
	var g Gauge
	kept := func(off, n int64) int64 {
		kept, _ := testenv.PageCache(t, f, off, n)
		return kept
	}
	g.Ask(f, at, at+n)
	g.left.Store(Bytes)
	g.Ask(f, -1, 5)
	g.Ask(f, 5, 5)
	g.Ask(f, 5, 3)
	if got := kept(0, size); got != 0 {
		t.Errorf("%d bytes are in memory, and nobody has asked for them", got)
	}
	g.Ask(f, at, at+n)
	for end := time.Now().Add(5 * time.Second); kept(at, n) < n && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	if got := kept(at, n); got < n {
		t.Errorf("%d of %d bytes are in memory", got, n)
	}
	if got := g.left.Load(); got != Bytes-n {
		t.Errorf("%d bytes are left to be asked for", got)
	}
	g.Ask(f, 0, 2*Bytes) // once more than is left
	if got := g.left.Load(); got > 0 {
		t.Errorf("%d bytes are left to be asked for", got)
	}
}

// Long reads count if there are more that wait than that do not, short ones always.
func TestWaits(t *testing.T) {
	for want, reads := range map[int64][]bool{
		0:       {false, true, false, true, false, false, true},
		lasting: {true, false, true, false, false, true, true, false, false},
	} {
		var g Gauge
		for _, waited := range reads {
			g.long(waited)
		}
		if got := g.left.Load(); got != want {
			t.Errorf("%v: %d bytes will be asked for, not %d", reads, got, want)
		}
	}
	var g Gauge
	for n, want := range map[int]int64{1: Bytes, short: Bytes, short + 1: 0} {
		g.left.Store(0)
		_, _ = g.look(func() (int, error) {
			time.Sleep(waited(n) + time.Millisecond)
			return n, nil
		})
		if got := g.left.Load(); got != want {
			t.Errorf("a slow read of %d bytes: %d will be asked for, not %d", n, got, want)
		}
	}
	g.left.Store(lasting)
	_, _ = g.look(func() (int, error) { time.Sleep(time.Millisecond); return 1, nil })
	if got := g.left.Load(); got != lasting {
		t.Errorf("a short read leaves %d of what long ones have found", got)
	}
}

// Reads are those of the file.
func TestReadAt(t *testing.T) {
	f, content := create(t, 4<<20)
	var g Gauge
	p := make([]byte, 1<<20)
	if n, err := g.ReadAt(f, p, 3<<20-5); n != len(p) || err != nil || !bytes.Equal(p, content[3<<20-5:4<<20-5]) {
		t.Error(n, err)
	}
	if n, err := g.ReadAt(f, p, 4<<20-5); n != 5 || err != io.EOF {
		t.Error(n, err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer errors.Join(r.Close(), w.Close())
	if _, err := g.ReadAt(r, p, 0); err == nil {
		t.Error("a pipe has offsets")
	}
	g.Ask(r, 0, 5) // has nobody to tell
}
