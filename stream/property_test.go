// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// drawDisk draws a disk: its size, what is in it, and what it tells of its runs.
func drawDisk(t *rapid.T) *memImage {
	size := rapid.OneOf(
		rapid.IntRange(1, 5<<20),
		rapid.Map(rapid.IntRange(1, 80), func(n int) int { return n * vmdk.GrainBytes }),
		rapid.Map(rapid.IntRange(1, 5), func(n int) int { return n << 20 }),
	).Draw(t, "size")
	m := &memImage{
		b:        make([]byte, size),
		runBytes: rapid.SampledFrom([]int64{512, 4096, 65536, 1 << 20, 1000}).Draw(t, "run"),
		dense:    rapid.Bool().Draw(t, "dense"),
	}
	for range rapid.IntRange(0, 8).Draw(t, "writes") {
		at := rapid.IntRange(0, size-1).Draw(t, "at")
		n := min(rapid.SampledFrom([]int{1, 512, 4096, 65536, 200000, 1 << 20}).Draw(t, "bytes"), size-at)
		switch rapid.IntRange(0, 2).Draw(t, "content") {
		case 0:
			clear(m.b[at : at+n])
		case 1:
			copy(m.b[at:at+n], random(n))
		default:
			textLike(m.b[at:at+n], uint64(at))
		}
	}
	return m
}

// Whatever the disks are: the stream does not depend on workers and memory, a
// reader gives the disks back, and so do a stock tar reader and SHA256SUMS with
// a VMDK reader.
func TestStreamProperties(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		var disks []Disk
		var models [][]byte
		for i := range rapid.IntRange(0, 3).Draw(t, "disks") {
			m := drawDisk(t)
			d := memDisk(fmt.Sprintf("scsi0-%d", i), m.b)
			d.Image = m
			disks, models = append(disks, d), append(models, m.b)
		}
		o := testOptions(rapid.SampledFrom(codecNames()).Draw(t, "codec"))
		o.ExtentBytes = int64(rapid.SampledFrom([]int{16, 17, 31, 64}).Draw(t, "grains of an extent")) * vmdk.GrainBytes
		o.Workers = 1
		files := []File{memFile("vm.log", random(rapid.IntRange(0, 3000).Draw(t, "file")))}
		want, _ := propertyWrite(t, disks, files, o)
		o.Workers = rapid.IntRange(1, 4).Draw(t, "workers")
		o.MemoryBytes = slotBytes(o.ExtentBytes, o.Codec) * int64(rapid.IntRange(1, 4).Draw(t, "slots"))
		got, res := propertyWrite(t, disks, files, o)
		if !bytes.Equal(want, got) {
			t.Fatal("workers and memory change the stream")
		}
		ro := ReadOptions{Workers: rapid.IntRange(1, 4).Draw(t, "readers"), MemoryBytes: rapid.SampledFrom([]int64{0, 1, 3 << 20}).Draw(t, "memory")}
		s := &memSink{ordered: rapid.Bool().Draw(t, "ordered")}
		read, err := Read(t.Context(), bytes.NewReader(got), s, ro)
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range models {
			if !bytes.Equal(s.disks[i].b[:len(b)], b) {
				t.Fatalf("disk %d differs", i)
			}
		}
		if !bytes.Equal(read.IndexJSON, res.IndexJSON) || read.OutBytes != res.OutBytes || read.TarBytes != res.TarBytes {
			t.Fatal("results of writing and reading differ")
		}
		checkExtracted(t, dir, got, models, disks)
	})
}

func propertyWrite(t *rapid.T, disks []Disk, files []File, o Options) ([]byte, *Result) {
	var b bytes.Buffer
	res, err := Write(t.Context(), &b, disks, files, o)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), res
}

// checkExtracted extracts with Go's tar, checks SHA256SUMS, and reads the disks
// with the package for VMDKs of any origin.
func checkExtracted(t *rapid.T, base string, b []byte, models [][]byte, disks []Disk) {
	dir, err := mkdirIn(base)
	if err != nil {
		t.Fatal(err)
	}
	defer removeAll(dir)
	r, err := codec.NewReader(bytes.NewReader(b), 2)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	digests := map[string]string{}
	sums := ""
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(h.Name, "vm/")
		digests[name] = fmt.Sprintf("%x", sha256.Sum256(content))
		if name == SumsName {
			sums = string(content)
		}
		if err := writeFile(filepath.Join(dir, name), content); err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(sums) {
		digest, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if digests[name] != digest {
			t.Fatalf("%s: digest %s, SHA256SUMS says %s", name, digests[name], digest)
		}
	}
	if n := strings.Count(sums, "\n"); n != len(digests)-2 {
		t.Fatalf("SHA256SUMS has %d lines for %d members", n, len(digests))
	}
	for i, want := range models {
		im, err := vmdk.Open(filepath.Join(dir, disks[i].Record.File), vmdk.Options{})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, im.Size())
		_, err = im.ReadAt(got, 0)
		if cerr := im.Close(); err == nil || errors.Is(err, io.EOF) {
			err = cerr
		}
		if err != nil || !bytes.Equal(got[:len(want)], want) {
			t.Fatalf("extracted disk %d: %v, or it differs", i, err)
		}
	}
}
