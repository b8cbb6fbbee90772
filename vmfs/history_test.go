// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// memory is a device in memory.
type memory struct{ *image }

func (m memory) WriteAt(p []byte, off int64) (int, error) {
	m.write(p, off)
	return len(p), nil
}

// copied is a device that can be changed.
func (m memory) copied() memory {
	c := memory{&image{size: m.size, chunks: map[int64][]byte{}}}
	for at, b := range m.chunks {
		c.chunks[at] = slices.Clone(b)
	}
	return c
}

// modelFile is what a file should be; content is what stands in front of zeros.
type modelFile struct {
	dir     bool
	size    int64
	content []piece
}

// history is a volume with what should be in it.
type history struct {
	devices []WriteDevice
	w       *Writer
	files   map[string]*modelFile
}

func (h *history) names(dirs bool) []string {
	var all []string
	for name, f := range h.files {
		if f.dir == dirs {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// newName draws a name in a directory, which may be taken.
func (h *history) newName(t *rapid.T) string {
	dir := rapid.SampledFrom(h.names(true)).Draw(t, "directory")
	return path.Join(dir, rapid.StringMatching("[a-c]{1,2}").Draw(t, "name"))
}

func (h *history) mkdir(t *rapid.T) {
	name := h.newName(t)
	err := h.w.Mkdir(name, 0o700)
	if _, taken := h.files[name]; taken != (err != nil) {
		t.Fatalf("mkdir %s: %v", name, err)
	} else if !taken {
		h.files[name] = &modelFile{dir: true}
	}
}

func (h *history) create(t *rapid.T) {
	name := h.newName(t)
	size, p := drawSize(t)
	x, err := h.w.Create(name, CreateOptions{SizeBytes: size, Provisioning: p})
	if _, taken := h.files[name]; taken != (err != nil) {
		t.Fatalf("create %s: %v", name, err)
	} else if taken {
		return
	}
	h.write(t, x, name)
}

const mib = 1 << 20

// drawSize draws what a file may have.
func drawSize(t *rapid.T) (int64, Provisioning) {
	size := rapid.SampledFrom([]int64{0, 1, 1024, 1025, 8192, 8193, 65536, 65537, mib - 1, mib, 3*mib + 5, 256 * mib, 256*mib + 1, 1025 * mib}).Draw(t, "size")
	if size < 10*mib {
		return size, Provisioning(rapid.IntRange(0, 2).Draw(t, "provisioning"))
	}
	return size, Thin
}

// write writes anything to a new file, and closes it or drops it.
func (h *history) write(t *rapid.T, x *FileWriter, name string) {
	size := x.Size()
	f := &modelFile{size: size}
	for range rapid.IntRange(0, 3).Draw(t, "writes") {
		if size == 0 {
			break
		}
		off := rapid.Int64Range(0, size-1).Draw(t, "offset")
		b := noise(uint64(off), int(min(size-off, rapid.Int64Range(1, 2*mib).Draw(t, "length"))))
		if _, err := x.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
		f.content = append(f.content, piece{off, b})
	}
	if rapid.IntRange(0, 5).Draw(t, "abort") == 0 {
		x.Abort()
		return
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	h.files[name] = f
}

// file draws a file that is there, "" if there is none.
func (h *history) file(t *rapid.T) string {
	all := h.names(false)
	if len(all) == 0 {
		return ""
	}
	return rapid.SampledFrom(all).Draw(t, "file")
}

func (h *history) replace(t *rapid.T) {
	name := h.file(t)
	if name == "" {
		return
	}
	size, p := drawSize(t)
	x, err := h.w.Replace(name, CreateOptions{SizeBytes: size, Provisioning: p})
	if err != nil {
		t.Fatal(err)
	}
	h.write(t, x, name)
}

func (h *history) resize(t *rapid.T) {
	name := h.file(t)
	if name == "" {
		return
	}
	size, p := drawSize(t)
	if err := h.w.Resize(name, size, p); err != nil {
		t.Fatal(err)
	}
	m := &modelFile{size: size}
	for _, c := range h.files[name].content {
		if c.off < size {
			m.content = append(m.content, piece{c.off, c.b[:min(int64(len(c.b)), size-c.off)]})
		}
	}
	h.files[name] = m
}

func (h *history) remove(t *rapid.T) {
	all := slices.Sorted(maps.Keys(h.files))
	name := rapid.SampledFrom(all).Draw(t, "name")
	full := name == "."
	for other := range h.files {
		full = full || path.Dir(other) == name && other != "."
	}
	if err := h.w.Remove(name); full != (err != nil) {
		t.Fatalf("remove %s: %v", name, err)
	} else if !full {
		delete(h.files, name)
	}
}

// reopen has the volume be what the model is.
func (h *history) reopen(t *rapid.T) {
	if err := h.w.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.w, err = OpenWriter(h.devices, Options{}); err != nil {
		t.Fatal(err)
	}
	f := h.w.FS()
	if sum, err := f.Check(t.Context(), func(p Problem) { t.Error(p) }); err != nil || sum.Problems > 0 {
		t.Fatal(err)
	}
	seen := 0
	err = fs.WalkDir(f, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || path.Dir(name) == "." && path.Ext(name) == ".sf" {
			return err
		}
		seen++
		m := h.files[name]
		if m == nil || m.dir != d.IsDir() {
			return fmt.Errorf("%s should not be there", name)
		}
		if m.dir {
			return nil
		}
		return m.compare(f, name)
	})
	if err != nil || seen != len(h.files) {
		t.Fatalf("%d of %d files: %v", seen, len(h.files), err)
	}
}

// compare compares windows around what was written; what came later covers what was
// there before.
func (m *modelFile) compare(f *FS, name string) error {
	r, err := f.OpenFile(name)
	if err != nil {
		return err
	}
	if r.Size() != m.size {
		return fmt.Errorf("%s: %d bytes, want %d", name, r.Size(), m.size)
	}
	windows := []piece{{0, make([]byte, min(m.size, 1<<20))}}
	for _, p := range m.content {
		from := max(p.off-4096, 0)
		windows = append(windows, piece{from, make([]byte, min(int64(len(p.b))+8192, m.size-from))})
	}
	for _, w := range windows {
		want := make([]byte, len(w.b))
		for _, p := range m.content {
			from, to := max(p.off, w.off), min(p.off+int64(len(p.b)), w.off+int64(len(w.b)))
			if from < to {
				copy(want[from-w.off:to-w.off], p.b[from-p.off:])
			}
		}
		if _, err := r.ReadAt(w.b, w.off); err != nil && err != io.EOF {
			return err
		}
		if !bytes.Equal(w.b, want) {
			return fmt.Errorf("%s: differs at %d", name, w.off)
		}
	}
	return nil
}

// TestHistory does anything in any order, on a volume with old data in its free blocks.
func TestHistory(t *testing.T) {
	for _, g := range []Generation{VMFS3, VMFS5} {
		t.Run(g.String(), func(t *testing.T) {
			const size = dataAt + peBytes
			blank := memory{&image{size: size, chunks: map[int64][]byte{}}}
			devices := []WriteDevice{{Name: "memory", RW: blank, SizeBytes: size}}
			if err := Format(t.Context(), devices, FormatOptions{Generation: g}); err != nil {
				t.Fatal(err)
			}
			dirty(t, devices)
			rapid.Check(t, func(t *rapid.T) {
				h := &history{devices: []WriteDevice{{Name: "memory", RW: blank.copied(), SizeBytes: size}}, files: map[string]*modelFile{".": {dir: true}}}
				var err error
				if h.w, err = OpenWriter(h.devices, Options{}); err != nil {
					t.Fatal(err)
				}
				t.Repeat(map[string]func(*rapid.T){"mkdir": h.mkdir, "create": h.create, "remove": h.remove, "replace": h.replace, "resize": h.resize, "reopen": h.reopen})
				h.reopen(t)
			})
		})
	}
}
