// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// diff tells which units of a disk differ from an earlier state of it.
type diff struct {
	was, is []byte
	unit    int64
}

func (d *diff) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	return disk.Merge(func(yield func(disk.Run, error) bool) {
		for end := min(off+n, int64(len(d.is))); off < end; {
			to := min((off/d.unit+1)*d.unit, end)
			r := disk.Run{Offset: off, Length: to - off, Kind: disk.Data}
			switch {
			case bytes.Equal(d.was[off:to], d.is[off:to]):
				r.Kind = disk.Parent
			case disk.IsZero(d.is[off:to]):
				r.Kind = disk.Zero
			}
			if !yield(r, nil) {
				return
			}
			off = to
		}
	})
}

// history is a disk at several points in time and the streams of a chain.
type history struct {
	points  [][]byte
	streams [][]byte
	results []*Result
}

// change returns b with some ranges written and some zeroed.
func change(r *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	for range 1 + r.IntN(12) {
		n := min(1+r.IntN(300<<10), len(b))
		off := r.IntN(len(b)-n+1) / 512 * 512
		if r.IntN(3) == 0 {
			clear(b[off : off+n])
		} else {
			textLike(b[off:off+n], r.Uint64())
		}
	}
	return b
}

func makeHistory(tb testing.TB, seed uint64, size, depth int, unit int64, c string) *history {
	tb.Helper()
	r := rand.New(rand.NewPCG(seed, 2))
	h := &history{}
	now := change(r, make([]byte, size))
	for i := range depth + 1 {
		o := testOptions(c)
		o.ID = fmt.Sprintf("backup-%d", i)
		d := memDisk("disk", now)
		if i > 0 {
			o.Parent = h.results[i-1].Opening
			d.Changes = &diff{was: h.points[i-1], is: now, unit: unit}
		}
		b, res := writeStream(tb, []Disk{d}, []File{memFile("x.log", fmt.Appendf(nil, "log %d", i))}, o)
		h.points, h.streams, h.results = append(h.points, now), append(h.streams, b), append(h.results, res)
		now = change(r, now)
	}
	return h
}

func (h *history) readers(n int) []io.Reader {
	var ins []io.Reader
	for _, b := range h.streams[:n] {
		ins = append(ins, bytes.NewReader(b))
	}
	return ins
}

func TestChain(t *testing.T) {
	for i, c := range []string{codec.None, codec.Zstd, codec.LZ4, codec.None, codec.None} {
		size := []int{5 << 20, 3<<20 + 512, 5<<20 + 100<<10, 100 << 10, 9 << 20}[i]
		units := []int64{512, 4096, vmdk.GrainBytes, 1 << 20}
		if testing.Short() {
			units = units[i%4 : i%4+1]
		}
		for _, unit := range units {
			h := makeHistory(t, uint64(i), size, 3, unit, c)
			for n := 1; n <= len(h.streams); n++ {
				if _, err := Read(t.Context(), bytes.NewReader(h.streams[n-1]), nil, ReadOptions{}); err != nil {
					t.Fatalf("verify level %d: %v", n-1, err)
				}
				s := &memSink{ordered: true}
				res, err := ReadChain(t.Context(), h.readers(n), s, ReadOptions{Workers: 2})
				if err != nil {
					t.Fatalf("size %d, unit %d, %d streams: %v", size, unit, n, err)
				}
				if got := s.disks[0].b[:size]; !bytes.Equal(got, h.points[n-1]) {
					t.Fatalf("size %d, unit %d, %d streams: the disk is not that of the last backup", size, unit, n)
				}
				if got, want := s.files["x.log"].String(), fmt.Sprintf("log %d", n-1); got != want || res.Opening.ID != h.results[n-1].Opening.ID {
					t.Errorf("file %q of backup %s, want %q", got, res.Opening.ID, want)
				}
				checkMerge(t, h, n, c)
			}
		}
	}
}

// checkMerge compares a synthetic full with a fresh one of the same point.
func checkMerge(t *testing.T, h *history, n int, c string) {
	t.Helper()
	for _, workers := range []int{1, 3} {
		var got bytes.Buffer
		o := Options{Codec: codec.Spec{Name: c}, Tool: "test", Workers: workers}
		if _, err := Merge(t.Context(), &got, h.readers(n), o); err != nil {
			t.Fatalf("merge of %d: %v", n, err)
		}
		o = testOptions(c)
		o.ID = h.results[n-1].Opening.ID
		fresh := memDisk("disk", h.points[n-1])
		want, _ := writeStream(t, []Disk{fresh}, []File{memFile("x.log", fmt.Appendf(nil, "log %d", n-1))}, o)
		wantExtents, gotExtents := extents(t, want), extents(t, got.Bytes())
		if wantExtents != gotExtents {
			t.Fatalf("merge of %d, %d workers: its extents are\n%s, those of a fresh full\n%s", n, workers, gotExtents, wantExtents)
		}
	}
}

// extents lists the digests of a stream's disks.
func extents(t *testing.T, b []byte) string {
	t.Helper()
	res, err := Read(t.Context(), bytes.NewReader(b), nil, ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var s string
	for _, m := range res.Index.Members {
		if m.Name != OpeningName && m.Name != SumsName {
			s += m.SHA256 + " " + m.Name + "\n"
		}
	}
	return s
}

// Streams in the wrong order, with one missing, or of another chain are
// refused, and so is an increment alone.
func TestChainRefused(t *testing.T) {
	h := makeHistory(t, 1, 2<<20, 3, 4096, codec.None)
	other := makeHistory(t, 2, 2<<20, 3, 4096, codec.None)
	larger := makeHistory(t, 1, 3<<20, 3, 4096, codec.None)
	rename := func(h *history) { // another backup of the same disk
		for i := range h.streams {
			h.streams[i] = bytes.ReplaceAll(h.streams[i], []byte("backup-"), []byte("backup_"))
		}
	}
	rename(other) // its headers and digests are wrong now, but the order is checked first
	cases := map[string][][]byte{
		"increment alone":  {h.streams[1]},
		"wrong order":      {h.streams[0], h.streams[2], h.streams[1]},
		"reversed":         {h.streams[1], h.streams[0]},
		"one missing":      {h.streams[0], h.streams[2]},
		"full missing":     {h.streams[1], h.streams[2]},
		"twice":            {h.streams[0], h.streams[1], h.streams[1]},
		"two fulls":        {h.streams[0], h.streams[0]},
		"other parent":     {other.streams[0], h.streams[1]},
		"another capacity": {h.streams[0], larger.streams[1]},
		"none":             {},
	}
	for name, streams := range cases {
		var ins []io.Reader
		for _, b := range streams {
			ins = append(ins, bytes.NewReader(b))
		}
		s := &memSink{ordered: true}
		if _, err := ReadChain(t.Context(), ins, s, ReadOptions{}); err == nil || !errors.Is(err, disk.ErrMismatch) && !isDamage(err) {
			t.Errorf("%s: restored with %v", name, err)
		}
		if _, err := Merge(t.Context(), io.Discard, ins, Options{Tool: "test"}); err == nil {
			t.Errorf("%s: merged", name)
		}
	}
}

// What a merge has made stands for the streams that it was made of: the increment
// on the last of them fits it, one on another does not.
func TestChainOnMerged(t *testing.T) {
	h := makeHistory(t, 4, 2<<20, 3, 4096, codec.None)
	var merged bytes.Buffer
	if _, err := Merge(t.Context(), &merged, h.readers(2), Options{Tool: "test"}); err != nil {
		t.Fatal(err)
	}
	full := merged.Bytes()
	var first, second bytes.Buffer
	if _, err := Merge(t.Context(), &first, h.readers(3), Options{Tool: "test"}); err != nil {
		t.Fatal(err)
	}
	if _, err := Merge(t.Context(), &second, []io.Reader{bytes.NewReader(full), bytes.NewReader(h.streams[2])}, Options{Tool: "test"}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("merging two and then the third makes another stream than merging three")
	}
	if _, err := ReadSeries(t.Context(), io.MultiReader(bytes.NewReader(full), bytes.NewReader(h.streams[2])), nil, ReadOptions{}); err != nil {
		t.Errorf("one behind the other: %v", err)
	}
	_, err := ReadChain(t.Context(), []io.Reader{bytes.NewReader(full), bytes.NewReader(h.streams[1])}, &memSink{ordered: true}, ReadOptions{})
	if !errors.Is(err, disk.ErrMismatch) {
		t.Errorf("an increment on what was merged away: %v", err)
	}
}

// A damaged stream of a chain is found wherever it is, and no merge of it has
// an end record.
func TestChainDamage(t *testing.T) {
	h := makeHistory(t, 3, 2<<20, 2, 4096, codec.None)
	r := rand.New(rand.NewPCG(9, 9))
	for i := range h.streams {
		for range 60 {
			bad := bytes.Clone(h.streams[i])
			bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
			ins := h.readers(len(h.streams))
			ins[i] = bytes.NewReader(bad)
			if _, err := ReadChain(t.Context(), ins, &memSink{ordered: true}, ReadOptions{}); err == nil {
				t.Fatalf("damage of stream %d was not noticed", i)
			}
			ins = h.readers(len(h.streams))
			ins[i] = bytes.NewReader(bad[:r.IntN(len(bad))])
			var out bytes.Buffer
			if _, err := Merge(t.Context(), &out, ins, Options{Tool: "test"}); err == nil {
				t.Fatalf("a merge with stream %d cut short went well", i)
			}
			if _, err := Read(t.Context(), &out, nil, ReadOptions{}); err == nil {
				t.Fatal("what a failed merge has written reads as a backup")
			}
		}
	}
}
