// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"fmt"
	"io/fs"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

// slow is how much longer than on an idle machine something may take here.
const slow = 10

// within fails if something takes far longer than it should, and tells how long it took.
func within(t *testing.T, what string, want time.Duration, do func()) {
	t.Helper()
	began := time.Now()
	do()
	took := time.Since(began)
	t.Logf("%s: %v", what, took.Round(time.Millisecond))
	if took > slow*want {
		t.Errorf("%s takes %v, %v is meant", what, took, want)
	}
}

// TestLargeThin maps a disk of 2 TiB that has 1 GiB of data, all over it.
func TestLargeThin(t *testing.T) {
	testenv.Long(t)
	const size, blocks = 2 << 40, 1024
	devices := formatTest(t, FormatOptions{}, 1<<40)
	w := openWriter(t, devices)
	x, err := w.Create("thin-flat.vmdk", CreateOptions{SizeBytes: size})
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(blocks) {
		if _, err := x.WriteAt([]byte{1}, i*(size/blocks)); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	within(t, "mapping 2 TiB with 1 GiB of data", time.Second, func() {
		v, err := Open(readers(devices), Options{})
		if err != nil {
			t.Fatal(err)
		}
		f, err := v.OpenFile("thin-flat.vmdk")
		if err != nil {
			t.Fatal(err)
		}
		var end, data int64
		for r, err := range f.Runs(0, size) {
			if err != nil || r.Offset != end {
				t.Fatalf("%+v behind %d, %v", r, end, err)
			}
			if end = r.End(); r.Kind == disk.Data {
				data += r.Length
			}
		}
		if end != size || data != 1<<30 {
			t.Errorf("%d bytes, %d of data", end, data)
		}
	})
}

// TestLargeDirectory lists 10,000 files.
func TestLargeDirectory(t *testing.T) {
	const files = 10_000
	devices := formatTest(t, FormatOptions{}, 400<<30)
	w := openWriter(t, devices)
	if err := w.Mkdir("many", 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := w.fs.walk("many")
	if err != nil {
		t.Fatal(err)
	}
	// All at once: to make them one after the other reads the directory each time.
	x := &FileWriter{w: w, n: dir, dense: true}
	if err := x.countPointers(); err != nil {
		t.Fatal(err)
	}
	for i := range files {
		n, err := w.newInode(Regular, 0o600, 0, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if err := (&FileWriter{w: w, n: n}).flush(); err != nil {
			t.Fatal(err)
		}
		off := dir.layout.size
		dir.layout.size += entryLen
		dir.stat.SizeBytes = dir.layout.size
		if err := x.write(encodeEntry(dirEntry{Regular, n.stat.Address, n.stat.Generation, fmt.Sprintf("file%05d", i)}), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.flush(); err != nil {
		t.Fatal(err)
	}
	w.forget()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	within(t, "listing 10,000 files", time.Second, func() {
		v, err := Open(readers(devices), Options{})
		if err != nil {
			t.Fatal(err)
		}
		entries, err := v.ReadDir("many")
		if err != nil || len(entries) != files {
			t.Fatalf("%d files, %v", len(entries), err)
		}
		for _, e := range entries {
			if i, err := e.Info(); err != nil || !i.Mode().IsRegular() {
				t.Fatalf("%s: %v", e.Name(), err)
			}
		}
	})
}

// peakHeap runs do and returns the most that the heap had meanwhile, in bytes.
func peakHeap(do func()) uint64 {
	unpacked.Clear() // what other tests keep
	runtime.GC()
	stop, done := make(chan struct{}), sync.WaitGroup{}
	var peak uint64
	done.Go(func() {
		var m runtime.MemStats
		for {
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse)
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	do()
	close(stop)
	done.Wait()
	return peak
}

// TestLargeVolume checks a volume of 64 TiB, and maps a file of 60 TiB on it: the memory
// that it takes is bounded.
func TestLargeVolume(t *testing.T) {
	testenv.Long(t)
	const most = 128 << 20
	devices := formatTest(t, FormatOptions{}, 13<<40, 13<<40, 13<<40, 13<<40, 12<<40)
	w := openWriter(t, devices)
	x, err := w.Create("large-flat.vmdk", CreateOptions{SizeBytes: 60 << 40})
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(960) {
		if _, err := x.WriteAt([]byte{1}, i<<36); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w = nil
	peak := peakHeap(func() {
		v, err := Open(readers(devices), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if v.SizeBytes() < 63<<40 {
			t.Errorf("the volume has %d bytes", v.SizeBytes())
		}
		sum, err := v.Check(t.Context(), func(p Problem) { t.Error(p) })
		if err != nil || sum.Files != 1 {
			t.Errorf("%+v, %v", sum, err)
		}
		if err := fs.WalkDir(v, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			f, err := v.OpenFile(name)
			if err != nil {
				return err
			}
			for _, err := range f.Extents(0, f.Size()) {
				if err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
	t.Logf("peak of the heap: %d MiB", peak>>20)
	if peak > most {
		t.Errorf("the heap has up to %d MiB, %d are meant", peak>>20, most>>20)
	}
}
