// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
)

// countingReader counts the reads and bytes that reach a file.
type countingReader struct {
	r            io.ReaderAt
	calls, bytes atomic.Int64
}

func (c *countingReader) ReadAt(p []byte, off int64) (int, error) {
	c.calls.Add(1)
	c.bytes.Add(int64(len(p)))
	return c.r.ReadAt(p, off)
}

// TestContiguousGrainsAreOneRead: grains that follow each other in the file
// are read in one piece, across grain tables.
func TestContiguousGrainsAreOneRead(t *testing.T) {
	w, spec := create(t, CreateSpec{Format: FormatSparse, SizeBytes: 40 * mib})
	data := randomBytes(40*mib, 3)
	if _, err := w.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := disk.OpenRaw(filepath.Join(spec.Dir, spec.Name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	src := sourceOf(f)
	c := &countingReader{r: f}
	src.r = c
	g, err := openHosted(src, newShared(nil), extentSpec{hole: disk.Zero})
	if err != nil {
		t.Fatal(err)
	}
	c.calls.Store(0)
	got := make([]byte, 40*mib)
	if err := disk.ReadFull(g, got, 0); err != nil {
		t.Fatal(err)
	}
	compare(t, "at once", got, data)
	if n := c.calls.Load(); n > 2 {
		t.Errorf("%d reads for grains that lie in one piece", n)
	}
}

// TestSmallStepsInflateOnce: reading a stream in steps of 4 KiB reads each
// compressed grain about once.
func TestSmallStepsInflateOnce(t *testing.T) {
	const size = 4 * mib
	content := randomBytes(size, 4)
	f := make([]fate, size/65536)
	for i := range f {
		f[i] = stored
	}
	b := genStream(content, f, layoutFront, "version=1\n")
	src := fuzzSource(b)
	c := &countingReader{r: src.r}
	src.r = c
	g, err := openHosted(src, newShared(nil), extentSpec{hole: disk.Zero})
	if err != nil {
		t.Fatal(err)
	}
	c.bytes.Store(0)
	got := make([]byte, size)
	for at := 0; at < size; at += 4096 {
		if err := disk.ReadFull(g, got[at:at+4096], int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	compare(t, "in small steps", got, content)
	if n := c.bytes.Load(); n > size+size/4 {
		t.Errorf("%d bytes were read for %d", n, size)
	}
}

// emptyHosted writes the metadata of a disk without grain tables, sparsely.
func emptyHosted(t testing.TB, sectors uint64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.vmdk")
	text := descriptorText(TypeMonolithicSparse, 1, NoParent, "", fmt.Sprintf(`RW %d SPARSE "x.vmdk"`, sectors))
	b := genHosted(make([]byte, 512), []fate{absent}, 128, 1, false, text)[:128*512]
	put64(b, 12, sectors)
	put64(b, 56, 128)
	over := 128 + (sectors/65536*4+511)/512 + 1
	put64(b, 64, over)
	clear(b[21*512:])
	writeFile(t, path, b)
	if err := os.Truncate(path, int64(over)*512); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestHugeEmptyDisk enumerates the largest disk there is.
func TestHugeEmptyDisk(t *testing.T) {
	start := time.Now()
	d := openDisk(t, emptyHosted(t, maxDiskSectors), Options{})
	runs := 0
	for r, err := range d.Runs(0, d.Size()) {
		if err != nil || r.Kind != disk.Zero || r.Length != disk.MaxSize {
			t.Fatal(r, err)
		}
		runs++
	}
	if runs != 1 {
		t.Errorf("%d runs", runs)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
	var p [4096]byte
	if err := disk.ReadFull(d, p[:], disk.MaxSize-4096); err != nil || !disk.IsZero(p[:]) {
		t.Error("the end of the disk", err)
	}
}

// TestMemoryOfHostileHeaders: headers that announce much more than the file
// has take no memory for it.
func TestMemoryOfHostileHeaders(t *testing.T) {
	hosted, _ := damageHosted(t)
	put64(hosted, 12, maxDiskSectors)
	small := make([]byte, 2048)
	cowd := genCOWD(small, make([]fate, 4), 1, 1, true)
	put32(cowd, 12, 1<<32-1)
	put32(cowd, 24, 1<<20)
	se := genSE(small, make([]fate, 1))[:10*512]
	put64(se, 16, maxDiskSectors)
	put64(se, 136, 1<<40)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	sh := newShared(nil)
	for range 20 {
		if _, err := openHosted(fuzzSource(hosted), sh, fuzzSpec); err == nil {
			t.Fatal("was opened")
		}
		if _, _, err := openCOWD(fuzzSource(cowd), sh, fuzzSpec); err == nil {
			t.Fatal("was opened")
		}
		if _, err := openSESparse(fuzzSource(se), sh, fuzzSpec); err == nil {
			t.Fatal("was opened")
		}
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes were allocated", n)
	}
}

func BenchmarkRead(b *testing.B) {
	const size = 256 * mib
	dir := b.TempDir()
	raw := filepath.Join(dir, "x.raw")
	content := patchwork(size, 1)
	for i := range content {
		if content[i] == 0 {
			content[i] = byte(i >> 9)
		}
	}
	writeFile(b, raw, content)
	for _, kind := range []string{"raw", "monolithicSparse", "monolithicFlat", "streamOptimized"} {
		path := raw
		if kind != "raw" {
			path = filepath.Join(dir, kind+".vmdk")
			run(b, "qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat="+kind, raw, path)
		}
		for _, step := range []int{64 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%s/%dK", kind, step>>10), func(b *testing.B) {
				d, err := Open(path, Options{})
				if err != nil {
					b.Fatal(err)
				}
				defer d.Close()
				buf := make([]byte, step)
				b.SetBytes(size)
				for b.Loop() {
					for off := int64(0); off < size; off += int64(step) {
						if err := disk.ReadFull(d, buf, off); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}

// BenchmarkRuns enumerates an empty disk of 1 TiB whose writer has allocated
// all grain tables, as QEMU and VMware's hosted products do.
func BenchmarkRuns(b *testing.B) {
	path := filepath.Join(b.TempDir(), "x.vmdk")
	run(b, "qemu-img", "create", "-q", "-f", "vmdk", path, "1T")
	for b.Loop() {
		d, err := Open(path, Options{})
		if err != nil {
			b.Fatal(err)
		}
		for _, err := range d.Runs(0, d.Size()) {
			if err != nil {
				b.Fatal(err)
			}
		}
		d.Close()
	}
}
