// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

// piece is what is written to a file at an offset.
type piece struct {
	off int64
	b   []byte
}

// written is a file of a test.
type written struct {
	name   string
	o      CreateOptions
	pieces []piece
}

func (x *written) write(tb testing.TB, w *Writer) {
	tb.Helper()
	f, err := w.Create(x.name, x.o)
	if err != nil {
		tb.Fatal(err)
	}
	for _, p := range x.pieces {
		if n, err := f.WriteAt(p.b, p.off); err != nil || n != len(p.b) {
			tb.Fatalf("%s: %d, %v", x.name, n, err)
		}
	}
	if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
}

// compare reads what was written, and zeros around it.
func (x *written) compare(tb testing.TB, f *FS) {
	tb.Helper()
	r, err := f.OpenFile(x.name)
	if err != nil {
		tb.Fatal(err)
	}
	if r.Size() != x.o.SizeBytes {
		tb.Errorf("%s: %d bytes, want %d", x.name, r.Size(), x.o.SizeBytes)
	}
	for _, p := range x.pieces {
		got := make([]byte, len(p.b))
		if _, err := r.ReadAt(got, p.off); err != nil && err != io.EOF || !bytes.Equal(got, p.b) {
			tb.Errorf("%s: differs at %d (%v)", x.name, p.off, err)
		}
	}
	// What was not written is zero, wherever something is stored.
	left := int64(64 << 20)
	for e, err := range r.Extents(0, r.Size()) {
		if err != nil {
			tb.Fatal(err)
		}
		if e.Where != Stored || left < e.Length {
			continue
		}
		left -= e.Length
		got := make([]byte, e.Length)
		if _, err := r.ReadAt(got, e.Offset); err != nil && err != io.EOF {
			tb.Fatal(err)
		}
		for _, p := range x.pieces {
			from, to := max(p.off, e.Offset), min(p.off+int64(len(p.b)), e.Offset+e.Length)
			if from < to {
				clear(got[from-e.Offset : to-e.Offset])
			}
		}
		if !disk.IsZero(got) {
			tb.Errorf("%s: what was not written is not zero from %d on", x.name, e.Offset)
		}
	}
}

func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32()>>8) | 1
	}
	return b
}

// dirty fills free blocks with what must never come back.
func dirty(tb testing.TB, devices []WriteDevice) {
	tb.Helper()
	f, sum := sound(tb, devices)
	stale := bytes.Repeat([]byte("STALE-"), 1<<20)
	m := &medium{f.vol, devices}
	at := int64(sum.Tables[0].Used) * f.header.BlockBytes
	for range 10 {
		if at+int64(len(stale)) > f.vol.size {
			break
		}
		if err := m.write(stale, at); err != nil {
			tb.Fatal(err)
		}
		at += int64(len(stale))
	}
}

// boundaryFiles are files of all kinds of layouts.
func boundaryFiles(h Header) []written {
	whole := func(name string, n int64, p Provisioning) written {
		return written{name, CreateOptions{SizeBytes: n, Provisioning: p}, []piece{{0, noise(uint64(n)+1, int(n))}}}
	}
	bs, sub := h.BlockBytes, h.SubBlockBytes
	var all []written
	for _, n := range []int64{0, 1, 511, 1023, 1024, 1025, sub - 1, sub, sub + 1, bs - 1, bs, bs + 1, 3*bs + 17} {
		all = append(all, whole(fmt.Sprintf("thin-%d", n), n, Thin))
	}
	all = append(all, whole("thick", 2*bs+5, EagerZeroedThick), whole("lazy-whole", bs+5, ZeroedThick),
		written{"eager", CreateOptions{SizeBytes: 3 * bs, Provisioning: EagerZeroedThick}, nil},
		written{"lazy", CreateOptions{SizeBytes: 5 * bs, Provisioning: ZeroedThick}, []piece{{bs + 100, noise(7, 1000)}, {3*bs - 5, noise(8, 10)}}},
		written{"small-thick", CreateOptions{SizeBytes: 10, Provisioning: EagerZeroedThick}, []piece{{3, noise(9, 4)}}},
		written{"hole", CreateOptions{SizeBytes: 100 * bs}, nil},
		written{"holes", CreateOptions{SizeBytes: 20*bs + 3}, []piece{{bs + 9, noise(10, 100)}, {4*bs - 50, noise(11, 100)}, {20 * bs, noise(12, 3)}}},
		written{"direct-256", CreateOptions{SizeBytes: 256 * bs}, []piece{{256*bs - 9, noise(13, 9)}, {0, noise(14, 9)}}},
		written{"pointers-257", CreateOptions{SizeBytes: 256*bs + 1}, []piece{{256 * bs, noise(15, 1)}, {1024*0 + 5, noise(16, 9)}}},
		written{"pointers-many", CreateOptions{SizeBytes: 5000 * bs}, []piece{{1024*bs - 7, noise(17, 20)}, {4999 * bs, noise(18, 4096)}}},
		written{"pointers-most", CreateOptions{SizeBytes: 256 * 1024 * bs}, []piece{{256*1024*bs - 7, noise(19, 7)}, {0, noise(20, 512)}}},
	)
	if h.Generation == VMFS5 {
		all = append(all,
			written{"double", CreateOptions{SizeBytes: 256*1024*bs + 1}, []piece{{256 * 1024 * bs, noise(21, 1)}, {5, noise(22, 9)}, {1024*bs - 3, noise(23, 6)}}},
			written{"double-far", CreateOptions{SizeBytes: 60 << 40}, []piece{{60<<40 - 4096, noise(24, 4096)}, {30<<40 + 1, noise(25, 100)}}})
	}
	return all
}

var writeVolumes = []struct {
	name  string
	o     FormatOptions
	sizes []int64
}{
	{"v3-1", FormatOptions{Generation: VMFS3, Label: "three"}, []int64{dataAt + peBytes}},
	{"v3-2", FormatOptions{Generation: VMFS3, BlockBytes: 2 << 20}, []int64{dataAt + 2*peBytes, dataAt + peBytes}},
	{"v3-4", FormatOptions{Generation: VMFS3, BlockBytes: 4 << 20}, []int64{dataAt + 3*peBytes}},
	{"v3-8", FormatOptions{Generation: VMFS3, BlockBytes: 8 << 20}, []int64{dataAt + 2*peBytes, dataAt + 2*peBytes, dataAt + 2*peBytes}},
	{"v5", FormatOptions{Label: "five"}, []int64{dataAt + peBytes}},
	{"v5-2", FormatOptions{}, []int64{dataAt + peBytes, dataAt + peBytes}},
	{"v5-3", FormatOptions{}, []int64{dataAt + peBytes, dataAt + 2*peBytes, dataAt + peBytes}},
}

// writeAll makes a volume with everything in it.
func writeAll(t *testing.T, o FormatOptions, sizes []int64) ([]WriteDevice, []written) {
	devices := formatTest(t, o, sizes...)
	dirty(t, devices)
	w := openWriter(t, devices)
	h := w.FS().Header()
	files := boundaryFiles(h)
	for i := range files {
		files[i].write(t, w)
	}
	deep := "deep"
	for range 12 {
		if err := w.Mkdir(deep, 0o755); err != nil {
			t.Fatal(err)
		}
		deep += "/" + strings.Repeat("d", 20)
	}
	last := written{strings.TrimSuffix(deep, "/"+strings.Repeat("d", 20)) + "/x.vmx", CreateOptions{SizeBytes: 2000}, []piece{{0, noise(30, 2000)}}}
	last.write(t, w)
	files = append(files, last)
	if err := w.Mkdir("wide", 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		f := written{fmt.Sprintf("wide/%s-%03d", strings.Repeat("n", 123), i), CreateOptions{SizeBytes: int64(i % 3)}, nil}
		f.write(t, w)
		files = append(files, f)
	}
	files = append(files, writeResized(t, w)...)
	for _, target := range []string{"/vmfs/volumes/x/y", strings.Repeat("t", 1000)} {
		if err := w.Symlink(target, fmt.Sprintf("link-%d", len(target))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return devices, files
}

// TestWriteAll writes files of all layouts, and reads them; in the end it removes them all.
func TestWriteAll(t *testing.T) {
	for _, v := range writeVolumes {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			devices, files := writeAll(t, v.o, v.sizes)
			f, before := sound(t, devices)
			for i := range files {
				files[i].compare(t, f)
			}
			for _, n := range []int{17, 1000} {
				if target, err := f.ReadLink(fmt.Sprintf("link-%d", n)); err != nil || len(target) != n {
					t.Errorf("%q, %v", target, err)
				}
			}
			if before.Files != len(files) || before.Directories < 14 {
				t.Errorf("%+v", before)
			}
			w := openWriter(t, devices)
			removeAll(t, w, ".")
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			_, after := sound(t, devices)
			_, empty := sound(t, formatTest(t, v.o, v.sizes...))
			if fmt.Sprint(after.Tables) != fmt.Sprint(empty.Tables) {
				t.Errorf("%v, want %v", after.Tables, empty.Tables)
			}
		})
	}
}

// removeAll empties a directory.
func removeAll(t *testing.T, w *Writer, dir string) {
	all, err := w.FS().ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		name := e.Name()
		if dir == "." && strings.HasPrefix(name, ".") && strings.HasSuffix(name, ".sf") {
			if err := w.Remove(name); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if dir != "." {
			name = dir + "/" + name
		}
		if e.IsDir() {
			removeAll(t, w, name)
		}
		if err := w.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWriteRuns has each kind of disk have the blocks that it should.
func TestWriteRuns(t *testing.T) {
	devices := formatTest(t, FormatOptions{Generation: VMFS3}, dataAt+peBytes)
	dirty(t, devices)
	w := openWriter(t, devices)
	const bs = 1 << 20
	for name, p := range map[string]Provisioning{"thin": Thin, "zeroedthick": ZeroedThick, "eagerzeroedthick": EagerZeroedThick} {
		f := written{name, CreateOptions{SizeBytes: 4 * bs, Provisioning: p}, []piece{{bs + 1, []byte("x")}, {3 * bs, make([]byte, bs)}}}
		f.write(t, w)
		f.compare(t, w.FS())
	}
	for name, want := range map[string]string{
		"thin": "hole 1 data 1 hole 2", "zeroedthick": "tbz 1 data 1 tbz 2", "eagerzeroedthick": "data 4",
	} {
		f, err := w.FS().OpenFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for e, err := range f.Extents(0, f.Size()) {
			if err != nil {
				t.Fatal(err)
			}
			got += fmt.Sprintf(" %v %d", e.Where, e.Length/bs)
		}
		if got[1:] != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestWriteRefuses leaves what it refuses as it is.
func TestWriteRefuses(t *testing.T) {
	devices := formatTest(t, FormatOptions{}, dataAt+peBytes)
	w := openWriter(t, devices)
	f := written{"a", CreateOptions{SizeBytes: 10}, nil}
	f.write(t, w)
	if err := w.Mkdir("d", 0o700); err != nil {
		t.Fatal(err)
	}
	create := func(name string, size int64) error {
		x, err := w.Create(name, CreateOptions{SizeBytes: size})
		if err == nil {
			err = x.Close()
		}
		return err
	}
	for name, want := range map[string]error{
		"a": fs.ErrExist, "d": fs.ErrExist, "": fs.ErrInvalid, "../x": fs.ErrInvalid, "d/": fs.ErrInvalid, "none/x": fs.ErrNotExist,
		strings.Repeat("x", 128): fs.ErrInvalid, "x\x00y": fs.ErrInvalid,
	} {
		if err := create(name, 1); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", name, err, want)
		}
		if err := w.Mkdir(name, 0o700); !errors.Is(err, want) {
			t.Errorf("mkdir %q: %v, want %v", name, err, want)
		}
	}
	if err := create("huge", 1<<62); !errors.Is(err, disk.ErrUnsupported) {
		t.Error(err)
	}
	// Full: what it had is given back.
	if _, err := w.Create("thick", CreateOptions{SizeBytes: 1 << 30, Provisioning: ZeroedThick}); !errors.Is(err, ErrFull) {
		t.Error(err)
	}
	if err := create("d/x", 100); err != nil {
		t.Error(err)
	}
	if err := w.Remove("d"); err == nil {
		t.Error("a directory with a file is removed")
	}
	x, err := w.Create("open", CreateOptions{SizeBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.WriteAt([]byte("xy"), 1<<20-1); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
	if _, err := x.WriteAt([]byte("xy"), 0); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err == nil {
		t.Error("closed with an open file")
	}
	x.Abort()
	if err := w.SetLabel("new label"); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if v, sum := sound(t, devices); v.Header().Label != "new label" || sum.Files != 2 {
		t.Errorf("%+v", sum)
	}
	if _, err := devices[0].RW.WriteAt([]byte{2}, dataAt+heartbeatsAt); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenWriter(devices, Options{}); !errors.Is(err, ErrInUse) {
		t.Error(err)
	}
}

// TestWriteCrash has the writes end anywhere: what was there before is there, and nothing
// is wrong but that something may be lost.
func TestWriteCrash(t *testing.T) {
	for _, g := range []Generation{VMFS3, VMFS5} {
		devices := formatTest(t, FormatOptions{Generation: g}, dataAt+peBytes)
		w := openWriter(t, devices)
		old := written{"old", CreateOptions{SizeBytes: 3 << 20}, []piece{{5, noise(1, 2<<20)}}}
		old.write(t, w)
		done := false
		for n := 0; !done && n < 1000; n++ {
			c := &crashing{ReadWriterAt: devices[0].RW, left: n}
			cw, err := OpenWriter([]WriteDevice{{Name: "crash", RW: c, SizeBytes: devices[0].SizeBytes}}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			dir := fmt.Sprintf("d%d", n)
			err = cw.Mkdir(dir, 0o700)
			var x *FileWriter
			if err == nil {
				x, err = cw.Create(dir+"/f", CreateOptions{SizeBytes: 300 << 20})
			}
			if err == nil {
				_, err = x.WriteAt([]byte("content"), 290<<20)
			}
			if err == nil {
				err = x.Close()
			}
			if err == nil {
				err = cw.MapDevice(dir+"/m", &DiskID{Type: 2, ID: []byte("id")}, 1<<30)
			}
			for _, name := range []string{"/f", "/m"} {
				if err == nil {
					err = cw.Remove(dir + name)
				}
			}
			if err == nil {
				err = cw.Remove(dir)
			}
			if done = err == nil; !done && !errors.Is(err, errCrash) {
				t.Fatal(err)
			}
			f, err := Open(readers(devices), Options{})
			if err != nil {
				t.Fatal(err)
			}
			old.compare(t, f)
			problems, _, _ := checkAll(t, f)
			for _, p := range problems {
				// A link count that is too high is left if a directory was not finished, and an
				// entry twice if one was removed.
				if !slices.Contains([]ProblemKind{Lost, Orphan, BadLinks}, p.Kind) && !strings.Contains(p.String(), "a removal was interrupted") {
					t.Errorf("after %d writes: %v", n, p)
				}
			}
		}
		if !done {
			t.Error("it is never done")
		}
		// What is left can be removed as anything else.
		w = openWriter(t, devices)
		removeAll(t, w, ".")
		if entries, err := fs.ReadDir(w.FS(), "."); err != nil || slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !strings.HasPrefix(e.Name(), ".") }) {
			t.Errorf("left are %v, %v", entries, err)
		}
	}
}

// TestWriteGeneration has who meant a file that was removed not find another one.
func TestWriteGeneration(t *testing.T) {
	devices := formatTest(t, FormatOptions{}, dataAt+peBytes)
	w := openWriter(t, devices)
	var last *Stat
	for i := range 3 {
		f := written{"a", CreateOptions{SizeBytes: int64(i)}, nil}
		f.write(t, w)
		fi, err := w.FS().Stat("a")
		if err != nil {
			t.Fatal(err)
		}
		s := fi.Sys().(*Stat)
		if last != nil && (s.Address != last.Address || s.Generation != last.Generation+1) {
			t.Errorf("%08x of generation %d after %08x of generation %d", s.Address, s.Generation, last.Address, last.Generation)
		}
		last = s
		if err := w.Remove("a"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWriteDamaged does not take from others what a damaged file claims to have.
func TestWriteDamaged(t *testing.T) {
	devices := formatTest(t, FormatOptions{Generation: VMFS3}, dataAt+peBytes)
	w := openWriter(t, devices)
	for _, name := range []string{"a", "b"} {
		f := written{name, CreateOptions{SizeBytes: 1000}, []piece{{0, noise(1, 1000)}}}
		f.write(t, w)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, before := sound(t, devices)
	n, err := f.walk("a")
	if err != nil {
		t.Fatal(err)
	}
	// Sub-block 16 of a cluster that has 16: not to be taken for the first of the next.
	b := make(fields, 4)
	b.put32(0, uint32(resourceID{0, 16}.address(kindSubBlock)))
	if err := w.m.write(b, n.stat.Offset+1024); err != nil {
		t.Fatal(err)
	}
	w = openWriter(t, devices)
	if err := w.Remove("a"); !errors.Is(err, disk.ErrCorrupt) {
		t.Error(err)
	}
	after := readAll(t, w.FS(), "b")
	if !bytes.Equal(after, noise(1, 1000)) || before.Files != 2 {
		t.Error("another file is damaged")
	}
	if _, err := w.FS().Stat("a"); err != nil {
		t.Error(err)
	}
}

func readAll(tb testing.TB, f *FS, name string) []byte {
	tb.Helper()
	b, err := fs.ReadFile(f, name)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}
