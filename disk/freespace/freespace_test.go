// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import (
	"bytes"
	"compress/gzip"
	"hash/crc32"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

// memory is a disk in memory.
type memory []byte

func (m memory) Size() int64  { return int64(len(m)) }
func (m memory) Close() error { return nil }
func (m memory) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m).ReadAt(p, off)
}

func (m memory) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	return func(yield func(disk.Run, error) bool) {
		if n = min(n, m.Size()-off); n > 0 {
			yield(disk.Run{Offset: off, Length: n, Kind: disk.Data}, nil)
		}
	}
}

// packed returns the images in testdata.
func packed(tb testing.TB) (names []string, images []memory) {
	tb.Helper()
	paths, err := filepath.Glob("testdata/*.img.gz")
	if err != nil || len(paths) == 0 {
		tb.Fatalf("no images: %v", err)
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			tb.Fatal(err)
		}
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			tb.Fatal(err)
		}
		image, err := io.ReadAll(z)
		if err != nil {
			tb.Fatal(err)
		}
		names = append(names, strings.TrimSuffix(filepath.Base(p), ".img.gz"))
		images = append(images, image)
	}
	return names, images
}

// TestPacked finds free space in all images, with other programs or without.
func TestPacked(t *testing.T) {
	names, images := packed(t)
	for i, im := range images {
		m, err := Find(t.Context(), im)
		if err != nil {
			t.Fatal(err)
		}
		kind, _, _ := strings.Cut(names[i], "-")
		if len(m.Volumes) != 1 || m.Volumes[0].Kind != kind || m.Volumes[0].Reason != "" || m.FreeBytes == 0 || m.FreeBytes >= im.Size() {
			t.Errorf("%s: %+v, %d bytes are free", names[i], m.Volumes, m.FreeBytes)
		}
	}
}

// FuzzFind changes bytes of images: whatever they are, finding comes to an end, and what it
// finds is on the disk.
func FuzzFind(f *testing.F) {
	_, images := packed(f)
	for i := range images {
		for _, at := range []uint32{0, 3, 0x30, 446, 512, 1024, 1024 + 0x18, 1024 + 0x60, 2048, 4096, 8192} {
			f.Add(uint8(i), at, []byte{0xff})
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, at uint32, b []byte) {
		if int(which) >= len(images) || int(at)+len(b) > len(images[which]) {
			t.Skip()
		}
		im := slices.Clone(images[which])
		copy(im[at:], b)
		m, err := Find(t.Context(), im)
		if err != nil {
			t.Fatal(err)
		}
		end := int64(0)
		for _, s := range m.spans {
			if s.from < end || s.end <= s.from || s.end > im.Size() {
				t.Fatalf("free: %v", m.spans)
			}
			end = s.end
		}
	})
}

// TestImage compares an image with its free space zeroed with a model.
func TestImage(t *testing.T) {
	content := memory(bytes.Repeat([]byte("0123456789"), 1000))
	m := &Map{spans: []span{{0, 10}, {100, 101}, {500, 5000}, {9990, 10000}}}
	want := slices.Clone(content)
	for _, s := range m.spans {
		clear(want[s.from:s.end])
	}
	im := m.Image(content)
	for _, r := range []struct{ off, n int64 }{{0, 10000}, {5, 20}, {99, 3}, {100, 1}, {101, 399}, {4999, 2}, {9985, 15}, {9985, 100}, {0, 1}, {500, 4500}} {
		b := make([]byte, r.n)
		n, err := im.ReadAt(b, r.off)
		have := min(r.n, 10000-r.off)
		if int64(n) != have || (err == io.EOF) != (have < r.n) || err != nil && err != io.EOF || !bytes.Equal(b[:n], want[r.off:r.off+have]) {
			t.Errorf("%d at %d: %d, %v", r.n, r.off, n, err)
		}
		end := r.off
		for run, err := range im.Runs(r.off, r.n) {
			if err != nil || run.Offset != end {
				t.Fatalf("%+v, %v", run, err)
			}
			for off := run.Offset; off < run.End(); off++ {
				free := slices.ContainsFunc(m.spans, func(s span) bool { return off >= s.from && off < s.end })
				if free != (run.Kind == disk.Zero) {
					t.Fatalf("%+v: byte %d is free: %v", run, off, free)
				}
			}
			end = run.End()
		}
		if end != r.off+have {
			t.Errorf("%d at %d: the runs end at %d", r.n, r.off, end)
		}
	}
	if _, err := im.ReadAt(make([]byte, 1), 10000); err != io.EOF {
		t.Errorf("behind the end: %v", err)
	}
}

// TestSpans keeps the memory of a map bounded.
func TestSpans(t *testing.T) {
	var s spanSet
	for i := range int64(3 * maxSpans) {
		s.add(i*16384, 4096)
	}
	s.add(1<<40, 1<<20)
	all := s.done()
	if len(all) > maxSpans || all[len(all)-1] != (span{1 << 40, 1<<40 + 1<<20}) {
		t.Errorf("%d ranges, the last %v", len(all), all[len(all)-1])
	}
	got := without([]span{{0, 10}, {20, 30}, {40, 50}}, []span{{0, 2}, {5, 6}, {9, 22}, {45, 60}})
	if want := []span{{2, 5}, {6, 9}, {22, 30}, {40, 45}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// mbrDisk makes a disk with a partition table, of type, first sector and sectors.
func mbrDisk(size int, entries ...[3]uint32) memory {
	m := make(memory, size)
	putMBR(m, 0, entries...)
	return m
}

func putMBR(m memory, sector int, entries ...[3]uint32) {
	b := m[sector*512:]
	b[510], b[511] = 0x55, 0xAA
	for i, e := range entries {
		p := b[mbrEntries+i*mbrEntryLen:]
		p[4] = byte(e[0])
		le.PutUint32(p[8:], e[1])
		le.PutUint32(p[12:], e[2])
	}
}

// TestPartitions finds a file system in partitions of all kinds, and nothing in tables that
// contradict themselves.
func TestPartitions(t *testing.T) {
	_, images := packed(t)
	fs := images[0]
	sectors := uint32(len(fs) / 512)
	const size = 8 << 20
	put := func(m memory, sector uint32) memory { copy(m[sector*512:], fs); return m }
	extended := put(put(mbrDisk(size, [3]uint32{0x83, 64, sectors}, [3]uint32{5, 4096, 8192}), 64), 4096+63)
	putMBR(extended, 4096, [3]uint32{0x83, 63, sectors}, [3]uint32{5, 4000, 4192})
	putMBR(extended, 4096+4000, [3]uint32{0x83, 63, sectors})
	loop := put(mbrDisk(size, [3]uint32{5, 4096, 8192}), 4096+63)
	putMBR(loop, 4096, [3]uint32{0x83, 63, sectors}, [3]uint32{5, 0, 100})
	for name, c := range map[string]struct {
		disk  memory
		names []string
		free  int // volumes with free space
	}{
		"no table":  {fs, []string{""}, 1},
		"MBR":       {put(put(mbrDisk(size, [3]uint32{0x83, 64, sectors}, [3]uint32{}, [3]uint32{7, 8000, sectors}), 64), 8000), []string{"partition 1", "partition 3"}, 2},
		"empty":     {mbrDisk(size, [3]uint32{0x82, 64, 100}), []string{"partition 1"}, 0},
		"extended":  {extended, []string{"partition 1", "partition 5", "partition 6"}, 2},
		"a loop":    {loop, []string{"partition 5"}, 1},
		"overlap":   {put(mbrDisk(size, [3]uint32{0x83, 64, sectors}, [3]uint32{0x83, 100, 100}), 64), []string{""}, 0},
		"too long":  {put(mbrDisk(size, [3]uint32{0x83, 64, 1 << 20}), 64), []string{""}, 0},
		"too short": {put(mbrDisk(size, [3]uint32{0x83, 64, 100}), 64), []string{"partition 1"}, 0},
		"GPT":       {put(gptDisk(size, 64, sectors), 64), []string{"partition 2"}, 1},
		"bad GPT":   {func() memory { m := put(gptDisk(size, 64, sectors), 64); m[1024+128+40]++; return m }(), []string{""}, 0},
		"no GPT":    {put(mbrDisk(size, [3]uint32{0xEE, 1, 100}), 64), []string{""}, 0},
		"nothing":   {make(memory, size), []string{""}, 0},
	} {
		m, err := Find(t.Context(), c.disk)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		free := 0
		for _, v := range m.Volumes {
			names = append(names, v.Name)
			if v.FreeBytes > 0 {
				free++
			} else if v.Reason == "" {
				t.Errorf("%s: %s: no reason", name, v.Name)
			}
		}
		if !slices.Equal(names, c.names) || free != c.free {
			t.Errorf("%s: %+v, want %q, %d of them with free space", name, m.Volumes, c.names, c.free)
		}
	}
}

// gptDisk makes a disk with a GUID partition table, whose second entry is in use.
func gptDisk(size int, first, sectors uint32) memory {
	m := mbrDisk(size, [3]uint32{mbrTypeGPT, 1, uint32(size/512 - 1)})
	table := m[1024:][:128*128]
	e := table[128:]
	e[0] = 1
	le.PutUint64(e[32:], uint64(first))
	le.PutUint64(e[40:], uint64(first+sectors-1))
	h := m[512:]
	copy(h, "EFI PART")
	le.PutUint32(h[12:], 92)
	le.PutUint64(h[72:], 2)
	le.PutUint32(h[80:], 128)
	le.PutUint32(h[84:], 128)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(table))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	return m
}
