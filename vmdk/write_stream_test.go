// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestStreamDoesNotDependOnWorkers(t *testing.T) {
	data := bytes.Repeat(randomBytes(3*GrainBytes/2, 1), 60)
	var first []byte
	for _, workers := range []int{1, 2, 7} {
		var out bytes.Buffer
		w, err := CreateStream(&out, CreateSpec{Name: "a.vmdk", SizeBytes: 64 * mib, CID: 1, LongContentID: strings.Repeat("0", 31) + "1", Workers: workers})
		if err != nil {
			t.Fatal(err)
		}
		if out.Len() > 0 {
			t.Error("written before there was data")
		}
		for off := 0; off < len(data); off += workers * 512 * 100 {
			if _, err := w.WriteAt(data[off:min(len(data), off+workers*512*100)], int64(off)+4096); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = out.Bytes()
		} else if !bytes.Equal(first, out.Bytes()) {
			t.Errorf("%d workers write other bytes than one", workers)
		}
	}
}

func TestStreamLevels(t *testing.T) {
	src := newSource(t, 2*mib, func(put func(int64, []byte)) { put(0, bytes.Repeat(randomBytes(999, 1), 1500)) })
	for level := range 10 {
		w, spec := create(t, CreateSpec{Format: FormatStream, SizeBytes: src.size, Compression: level})
		src.restore(t, w, mib)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		src.compareByOpen(t, filepath.Join(spec.Dir, spec.Name))
	}
}

// failAfter takes n bytes and then fails.
type failAfter struct{ n int }

func (f *failAfter) Write(p []byte) (int, error) {
	if f.n -= len(p); f.n < 0 {
		return 0, syscall.EPIPE
	}
	return len(p), nil
}

// TestStreamBrokenPipe breaks the pipe at many places.
func TestStreamBrokenPipe(t *testing.T) {
	before := runtime.NumGoroutine()
	for n := 0; n < 3*mib; n += 100_000 {
		w, err := CreateStream(&failAfter{n}, CreateSpec{Name: "a.vmdk", SizeBytes: 8 * mib, Workers: 2})
		if err != nil {
			t.Fatal(err)
		}
		_, werr := w.WriteAt(randomBytes(4*mib, 1), 0)
		if err := w.Close(); !errors.Is(err, syscall.EPIPE) {
			t.Fatalf("pipe of %d bytes: write %v, close %v", n, werr, err)
		}
	}
	// The last ones may be about to return.
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

func TestStreamAbort(t *testing.T) {
	var out bytes.Buffer
	w, err := CreateStream(&out, CreateSpec{Name: "a.vmdk", SizeBytes: 8 * mib})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt(randomBytes(8*mib, 1), 0); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	path := filepath.Join(t.TempDir(), "a.vmdk")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err := Open(path, Options{}); err == nil {
		_ = d.Close()
		t.Error("the aborted stream opens")
	}
	if err := w.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Close after Abort: %v", err)
	}
}
