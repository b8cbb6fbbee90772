// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
)

// cut is what is left of pieces in a shorter file.
func cut(pieces []piece, size int64) []piece {
	var left []piece
	for _, p := range pieces {
		if p.off < size {
			left = append(left, piece{p.off, p.b[:min(int64(len(p.b)), size-p.off)]})
		}
	}
	return left
}

// TestResize goes through lengths between which the kind of addresses changes, and back:
// what was cut off does not come back.
func TestResize(t *testing.T) {
	const gib = 1 << 30
	for _, g := range []Generation{VMFS3, VMFS5} {
		devices := formatTest(t, FormatOptions{Generation: g}, dataAt+peBytes)
		dirty(t, devices)
		sizes := []int64{500, 1024, 5000, 65536, 65537, mib + 7, 255*mib + 1, 257 * mib, gib, gib + 5*mib + 9, 3 * gib}
		if g == VMFS5 {
			sizes = append(sizes, 257*gib, 300*gib+1)
		}
		w := openWriter(t, devices)
		for _, from := range sizes {
			for _, to := range sizes {
				resizeForth(t, w, from, to)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		sound(t, devices)
	}
}

// resizeForth makes a file of a length, and gives it another one, and so again.
func resizeForth(t *testing.T, w *Writer, from, to int64) {
	t.Helper()
	x := written{"a", CreateOptions{SizeBytes: from}, nil}
	for off := int64(1); off < from-8; off = off*2 + 3 {
		x.pieces = append(x.pieces, piece{off, noise(uint64(off), 3)})
	}
	x.pieces = append(x.pieces, piece{from - 4, noise(1, 4)})
	x.write(t, w)
	for _, size := range []int64{to, from, to} {
		if err := w.Resize("a", size, Thin); err != nil {
			t.Fatalf("from %d to %d: %v", from, to, err)
		}
		x.o.SizeBytes, x.pieces = size, cut(x.pieces, size)
		x.compare(t, w.FS())
	}
	if err := w.Remove("a"); err != nil {
		t.Fatal(err)
	}
}

// TestResizeThick has what is added to a file have blocks, if it is to have them.
func TestResizeThick(t *testing.T) {
	devices := formatTest(t, FormatOptions{Generation: VMFS5}, dataAt+3*peBytes)
	dirty(t, devices)
	w := openWriter(t, devices)
	for _, from := range []int64{100, 5000, 3*mib + 5, 100 * mib} {
		for _, p := range []Provisioning{Thin, ZeroedThick, EagerZeroedThick} {
			x := written{"a", CreateOptions{SizeBytes: from, Provisioning: p, Mode: 0o640}, []piece{{from / 2, noise(1, 50)}}}
			x.write(t, w)
			x.o.SizeBytes = 260*mib + 1
			w.now = func() time.Time { return time.Unix(1e9, 0) }
			if err := w.Resize("a", x.o.SizeBytes, p); err != nil {
				t.Fatal(err)
			}
			x.compare(t, w.FS())
			fi, err := w.FS().Stat("a")
			if err != nil {
				t.Fatal(err)
			}
			s := fi.Sys().(*Stat)
			if thick := s.Units == 261; thick != (p != Thin) || (s.TBZ > 150) != (p == ZeroedThick) || fi.Mode() != 0o640 || !fi.ModTime().Equal(w.now()) {
				t.Errorf("from %d, %v: %+v", from, p, s)
			}
			if err := w.Remove("a"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sound(t, devices)
}

// TestResizeRefused leaves alone what it must not change.
func TestResizeRefused(t *testing.T) {
	devices := formatTest(t, FormatOptions{Generation: VMFS3}, dataAt+peBytes)
	w := openWriter(t, devices)
	x := written{"a", CreateOptions{SizeBytes: 3 * mib}, []piece{{5, noise(1, 2*mib)}}}
	x.write(t, w)
	if err := w.Mkdir("d", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := w.MapDevice("m", &DiskID{Type: 2, ID: []byte("id")}, mib); err != nil {
		t.Fatal(err)
	}
	free, err := w.FreeBytes()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		size int64
		p    Provisioning
		want error
	}{
		{"b", mib, Thin, fs.ErrNotExist},
		{"d", mib, Thin, disk.ErrUnsupported},
		{"m", mib, Thin, disk.ErrUnsupported},
		{".", mib, Thin, disk.ErrUnsupported},
		{".fbb.sf", mib, Thin, disk.ErrUnsupported},
		{"a", 1 << 50, Thin, disk.ErrUnsupported},
		{"a", -1, Thin, disk.ErrUnsupported},
		{"a", free + 4*mib, ZeroedThick, ErrFull},
		{"a", free + 4*mib, EagerZeroedThick, ErrFull},
	} {
		if err := w.Resize(c.name, c.size, c.p); !errors.Is(err, c.want) {
			t.Errorf("%s to %d: %v", c.name, c.size, err)
		}
	}
	if now, err := w.FreeBytes(); err != nil || now != free {
		t.Errorf("%d bytes are free, %d were: %v", now, free, err)
	}
	if r, err := w.Replace("a", CreateOptions{SizeBytes: mib}); err != nil {
		t.Error(err)
	} else {
		r.Abort()
	}
	x.compare(t, w.FS())
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sound(t, devices)
}

// TestResizeCrash has the writes end anywhere: the file is what it was or what it is to be.
func TestResizeCrash(t *testing.T) {
	for _, g := range []Generation{VMFS3, VMFS5} {
		for _, sizes := range [][2]int64{{700, 3 * mib}, {3*mib + 5, 300 * mib}, {1030 * mib, 2000 * mib}, {300 * mib, 2*mib + 5}, {20 * mib, 0}, {0, 0}} {
			t.Run(fmt.Sprintf("%v from %d to %d", g, sizes[0], sizes[1]), func(t *testing.T) {
				devices := formatTest(t, FormatOptions{Generation: g}, dataAt+9*peBytes)
				dirty(t, devices)
				w := openWriter(t, devices)
				from := max(sizes[0], 200)
				old := written{"old", CreateOptions{SizeBytes: from}, []piece{{from / 2, noise(1, 50)}, {from - 9, noise(2, 9)}}}
				old.write(t, w)
				change := func(w *Writer) error { return w.Resize("old", sizes[1], ZeroedThick) }
				fresh := written{"old", CreateOptions{SizeBytes: sizes[1]}, cut(old.pieces, sizes[1])}
				if sizes[0] == 0 {
					fresh = written{"old", CreateOptions{SizeBytes: 77}, []piece{{3, noise(3, 60)}}}
					change = func(w *Writer) error { return replaceWith(w, &fresh) }
				}
				crashEverywhere(t, devices, change, &old, &fresh)
			})
		}
	}
}

func replaceWith(w *Writer, x *written) error {
	f, err := w.Replace(x.name, x.o)
	if err != nil {
		return err
	}
	for _, p := range x.pieces {
		if _, err := f.WriteAt(p.b, p.off); err != nil {
			f.Abort()
			return err
		}
	}
	return f.Close()
}

// crashEverywhere does something until it is complete, with ever more writes; the file has
// to be the old or the new one after each.
func crashEverywhere(t *testing.T, devices []WriteDevice, change func(*Writer) error, old, fresh *written) {
	t.Helper()
	done := false
	for n := 0; !done && n < 1000; n++ {
		copied := &overlay{ReadWriterAt: devices[0].RW, sectors: map[int64][]byte{}}
		cw, err := OpenWriter([]WriteDevice{{Name: "crash", RW: &crashing{ReadWriterAt: copied, left: n}, SizeBytes: devices[0].SizeBytes}}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		err = change(cw)
		if done = err == nil; !done && !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		f, err := Open([]Device{{Name: "after", R: copied, SizeBytes: devices[0].SizeBytes}}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		st, err := f.Stat(old.name)
		if err != nil {
			t.Fatal(err)
		}
		is := old
		if done || st.Size() == fresh.o.SizeBytes {
			is = fresh
		}
		is.compare(t, f)
		problems, _, _ := checkAll(t, f)
		for _, p := range problems {
			// Both are there for a time, with the same blocks, but just one in the directory.
			alone := p.Kind == SharedResource && strings.Contains(p.String(), `["old" "descriptor `)
			if done || !alone && !slices.Contains([]ProblemKind{Lost, Orphan}, p.Kind) {
				t.Errorf("after %d writes: %v", n, p)
			}
		}
	}
	if !done {
		t.Error("it is never done")
	}
}

// overlay keeps the sectors that are written in memory.
type overlay struct {
	ReadWriterAt
	sectors map[int64][]byte
}

func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	n, err := o.ReadWriterAt.ReadAt(p, off)
	for at := off / 512; at*512 < off+int64(n); at++ {
		if b := o.sectors[at]; b != nil {
			from := max(off, at*512)
			copy(p[from-off:n], b[from-at*512:])
		}
	}
	return n, err
}

func (o *overlay) WriteAt(p []byte, off int64) (int, error) {
	for at := off / 512; at*512 < off+int64(len(p)); at++ {
		b := make([]byte, 512)
		if _, err := o.ReadAt(b, at*512); err != nil {
			return 0, err
		}
		from, to := max(off, at*512), min(off+int64(len(p)), at*512+512)
		copy(b[from-at*512:], p[from-off:to-off])
		o.sectors[at] = b
	}
	return len(p), nil
}

// writeResized makes files that get their lengths later.
func writeResized(t *testing.T, w *Writer) []written {
	t.Helper()
	bs := w.FS().Header().BlockBytes
	var files []written
	for i, size := range []int64{10, 3000, 2*bs + 5, 256 * bs, 257 * bs, 1300 * bs} {
		for j, from := range []int64{20, 3*bs + 1, 258 * bs, 1100 * bs} {
			f := written{fmt.Sprintf("resized-%d-%d", i, j), CreateOptions{SizeBytes: from}, []piece{{from - 7, noise(uint64(from), 7)}}}
			f.write(t, w)
			if err := w.Resize(f.name, size, Thin); err != nil {
				t.Fatal(err)
			}
			f.o.SizeBytes, f.pieces = size, cut(f.pieces, size)
			files = append(files, f)
		}
	}
	return files
}
