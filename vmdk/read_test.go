// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

// openDisk opens a disk that has to be readable without a warning, and closes
// it at the end of the test.
func openDisk(t testing.TB, path string, o Options) *Disk {
	t.Helper()
	if o.Warn == nil {
		o.Warn = func(s string) { t.Error("warning:", s) }
	}
	d, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// openError returns the error of opening a disk that must not be opened, or
// that must fail when it is read.
func openError(t testing.TB, path string, o Options) error {
	t.Helper()
	d, err := Open(path, o)
	if err != nil {
		return err
	}
	defer d.Close()
	_, err = io.Copy(io.Discard, io.NewSectionReader(d, 0, d.Size()))
	if err == nil {
		t.Error("was opened and read")
	}
	return err
}

// checkContent compares an image with what it should hold: all at once, in
// steps, at random places from several goroutines, around its end, and by its
// runs, whatever range they are asked for.
func checkContent(t *testing.T, im disk.Image, want []byte) {
	t.Helper()
	size := int64(len(want))
	if im.Size() != size {
		t.Fatalf("%d bytes, want %d", im.Size(), size)
	}
	all := make([]byte, size)
	if n, err := im.ReadAt(all, 0); n != len(all) || err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("reading all: %d, %v", n, err)
	}
	compare(t, "at once", all, want)
	got, err := io.ReadAll(io.NewSectionReader(im, 0, size+1))
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "in steps", got, want)
	checkRandomReads(t, im, want)
	if n, err := im.ReadAt(make([]byte, 10), size-4); n != 4 || !errors.Is(err, io.EOF) {
		t.Errorf("reading over the end gives %d, %v", n, err)
	}
	if n, err := im.ReadAt(make([]byte, 1), size); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("reading behind the end gives %d, %v", n, err)
	}
	if n, err := im.ReadAt(make([]byte, 1), -1); n != 0 || err == nil {
		t.Errorf("reading before the beginning gives %d, %v", n, err)
	}
	checkRuns(t, im, want, 0, size)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		off := rnd.Int64N(size)
		checkRuns(t, im, want, off, 1+rnd.Int64N(size))
	}
	for range im.Runs(size, 10) {
		t.Error("a run behind the end")
	}
}

func compare(t *testing.T, how string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("read %s: the content differs from byte %d on, %d bytes of %d", how, firstDifference(got, want), len(got), len(want))
	}
}

func checkRandomReads(t *testing.T, im disk.Image, want []byte) {
	t.Helper()
	var wg sync.WaitGroup
	for seed := range uint64(4) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 3))
			buf := make([]byte, 200<<10)
			for range 60 {
				off := rnd.IntN(len(want))
				n := min(1+rnd.IntN(len(buf)), len(want)-off)
				if seed%2 == 0 {
					n = min(n, 4096)
				}
				if err := disk.ReadFull(im, buf[:n], int64(off)); err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(buf[:n], want[off:off+n]) {
					t.Errorf("%d bytes at %d differ", n, off)
					return
				}
			}
		})
	}
	wg.Wait()
}

// checkRuns demands runs without gaps whose zeros are zeros.
func checkRuns(t *testing.T, im disk.Image, want []byte, off, n int64) {
	t.Helper()
	end := min(off+n, im.Size())
	at := off
	for r, err := range im.Runs(off, n) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Offset != at || r.Length <= 0 || r.End() > end {
			t.Fatalf("run [%d, %d) while at %d of %d", r.Offset, r.End(), at, end)
		}
		if r.Kind == disk.Zero && !disk.IsZero(want[r.Offset:r.End()]) {
			t.Fatalf("run [%d, %d) is said to be zero", r.Offset, r.End())
		}
		at = r.End()
	}
	if at != end {
		t.Fatalf("the runs of [%d, %d) end at %d", off, end, at)
	}
}

// dataBytes returns how many bytes the runs say have to be read.
func dataBytes(t *testing.T, im disk.Image) (n int64) {
	t.Helper()
	for r, err := range im.Runs(0, im.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Kind == disk.Data {
			n += r.Length
		}
	}
	return n
}

func writeFile(t testing.TB, path string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// patchwork returns content that is partly random, partly zero, partly text,
// in pieces that fit no grain. A given seed gives a given content.
func patchwork(size int, seed uint64) []byte {
	b := make([]byte, size)
	rnd := rand.New(rand.NewPCG(seed, 9))
	noise := randomBytes(64<<10, seed)
	for off := 0; off < size; {
		n := min(512*(1+rnd.IntN(300)), size-off)
		switch rnd.IntN(4) {
		case 0:
			copy(b[off:off+n], noise)
		case 1:
			copy(b[off:off+n], strings.Repeat("all work and no play ", n/21+1))
		}
		off += n
	}
	return b
}

// TestQemu reads every kind of disk that qemu-img can create.
func TestQemu(t *testing.T) {
	testenv.Long(t)
	contents := map[string][]byte{
		"one sector":        randomBytes(512, 1),
		"1 MiB + 512":       patchwork(mib+512, 2),
		"33 MiB - 512":      patchwork(33*mib-512, 3),
		"ext4":              ext4Image(t, 24*mib),
		"nothing in 70 MiB": make([]byte, 70*mib),
	}
	for _, kind := range []string{
		"monolithicSparse", "monolithicSparse,zeroed_grain=on", "monolithicFlat",
		"twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized",
	} {
		for name, content := range contents {
			t.Run(kind+"/"+name, func(t *testing.T) {
				dir := t.TempDir()
				raw := writeFile(t, filepath.Join(dir, "in.img"), content)
				path := filepath.Join(dir, "disk.vmdk")
				run(t, "qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat="+kind, raw, path)
				back := filepath.Join(dir, "back.raw")
				run(t, "qemu-img", "convert", "-f", "vmdk", "-O", "raw", path, back)
				want := readFile(t, back)
				compare(t, "by qemu", want, content)
				d := openDisk(t, path, Options{})
				checkContent(t, d, want)
				if err := d.Check(t.Context()); err != nil {
					t.Error(err)
				}
				createType, _, _ := strings.Cut(kind, ",")
				if got := d.Info().Kind; got != createType {
					t.Errorf("kind %q, want %q", got, createType)
				}
				if n := dataBytes(t, d); name == "nothing in 70 MiB" && n > 4096 {
					// A flat file has one block: QEMU tries the file system with it.
					t.Errorf("%d bytes of an empty disk are data", n)
				}
			})
		}
	}
}

func ext4Image(t *testing.T, size int64) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fs.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", "-F", "-d", filepath.Join(testenv.Root(t), "disk"), path)
	return readFile(t, path)
}

// TestQemuChain reads children that QEMU made, with grains of its own, with
// zeroed grains, and parents of all kinds.
func TestQemuChain(t *testing.T) {
	for _, base := range []string{"monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "streamOptimized"} {
		t.Run(base, func(t *testing.T) {
			dir := t.TempDir()
			content := patchwork(3*mib, 5)
			raw := writeFile(t, filepath.Join(dir, "in.img"), content)
			path := func(name string) string { return filepath.Join(dir, name) }
			run(t, "qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat="+base, raw, path("base.vmdk"))
			run(t, "qemu-img", "create", "-q", "-f", "vmdk", "-o", "zeroed_grain=on", "-F", "vmdk", "-b", path("base.vmdk"), path("a.vmdk"))
			run(t, "qemu-io", "-f", "vmdk", "-c", "write -P 0x41 64k 64k", "-c", "write -P 0x42 1000k 3k", "-c", "write -z 256k 128k", path("a.vmdk"))
			run(t, "qemu-img", "create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", path("a.vmdk"), path("b.vmdk"))
			run(t, "qemu-io", "-f", "vmdk", "-c", "write -P 0x43 2m 5k", path("b.vmdk"))
			run(t, "qemu-img", "convert", "-f", "vmdk", "-O", "raw", path("b.vmdk"), path("want.raw"))
			d := openDisk(t, path("b.vmdk"), Options{})
			checkContent(t, d, readFile(t, path("want.raw")))
			if n := len(d.Info().Links); n != 3 {
				t.Errorf("%d links", n)
			}
			l, err := OpenLink(path("a.vmdk"), Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			kinds := map[disk.Kind]int64{}
			for r, err := range l.Runs(0, l.Size()) {
				if err != nil {
					t.Fatal(err)
				}
				kinds[r.Kind] += r.Length
			}
			if kinds[disk.Data] != 128<<10 || kinds[disk.Zero] != 128<<10 || kinds[disk.Parent] != 3*mib-256<<10 {
				t.Errorf("bytes of each kind: %v", kinds)
			}
		})
	}
}
