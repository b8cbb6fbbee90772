// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// comparedHistory has the points of h with increments made by digests of blocks.
func comparedHistory(tb testing.TB, h *history, block int64) *history {
	tb.Helper()
	out := &history{points: h.points}
	for i, b := range h.points {
		o := testOptions(codec.None)
		o.ID = fmt.Sprintf("backup-%d", i)
		d := memDisk("disk", b)
		d.Record.TrackBytes = block
		if i > 0 {
			o.Parent, d.Was, d.Compare = out.results[i-1].Opening, out.results[i-1].Index.Track("disk"), true
		}
		s, res := writeStream(tb, []Disk{d}, nil, o)
		out.streams, out.results = append(out.streams, s), append(out.results, res)
	}
	return out
}

// Extracted side by side by tar, a full backup and increments are a chain of
// which QEMU reads every point in time, whatever told the changes. What became
// zero is zero there, though the link below has data.
func TestChainByQEMU(t *testing.T) {
	testenv.Long(t)
	for i, size := range []int{9 << 20, 3<<20 + 512, 5<<20 + 100<<10} {
		h := makeHistory(t, uint64(20+i), size, 4, []int64{512, 4096, vmdk.GrainBytes}[i], codec.None)
		zeroed := bytes.Clone(h.points[4]) // grains, a whole segment, the end
		clear(zeroed[:2<<20+vmdk.GrainBytes])
		clear(zeroed[size-70000:])
		h = appendPoint(t, h, zeroed)
		checkByQEMU(t, h)
		checkByQEMU(t, comparedHistory(t, h, []int64{64 << 10, 256 << 10, 1 << 20}[i]))
	}
}

// appendPoint adds an increment to a chain.
func appendPoint(tb testing.TB, h *history, b []byte) *history {
	tb.Helper()
	n := len(h.points)
	o := testOptions(codec.None)
	o.ID, o.Parent = fmt.Sprintf("backup-%d", n), h.results[n-1].Opening
	d := memDisk("disk", b)
	d.Changes = &diff{was: h.points[n-1], is: b, unit: 4096}
	s, res := writeStream(tb, []Disk{d}, nil, o)
	return &history{points: append(h.points, b), streams: append(h.streams, s), results: append(h.results, res)}
}

func checkByQEMU(t *testing.T, h *history) {
	t.Helper()
	dir, zeros := t.TempDir(), 0
	for i, b := range h.streams {
		run(t, dir, b, "tar", "-xf", "-")
		link := filepath.Join(dir, h.results[i].Opening.Name, "disk.vmdk")
		raw := filepath.Join(dir, "point.raw")
		point := append(bytes.Clone(h.points[i]), make([]byte, -len(h.points[i])&511)...)
		if err := os.WriteFile(raw, point, 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, dir, nil, "qemu-img", "compare", "-f", "vmdk", "-F", "raw", link, raw)
		run(t, dir, nil, "qemu-img", "check", "-q", "-f", "vmdk", link)
		if i > 0 {
			zeros += checkZeros(t, link, h.points[i-1], h.points[i])
		}
	}
	if zeros == 0 {
		t.Error("nothing has become zero")
	}
	for i := range h.points { // also when others are above
		out := filepath.Join(dir, "out.raw")
		run(t, dir, nil, "qemu-img", "convert", "-f", "vmdk", "-O", "raw", filepath.Join(dir, h.results[i].Opening.Name, "disk.vmdk"), out)
		if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got[:len(h.points[i])], h.points[i]) {
			t.Errorf("point %d: %v", i, err)
		}
	}
}

// checkZeros makes sure that a link itself says of each grain that has become
// zero that it is. It returns how many have.
func checkZeros(t *testing.T, link string, was, is []byte) (n int) {
	t.Helper()
	var runs []struct {
		Start, Length int64
		Depth         int
		Zero, Data    bool
	}
	if err := json.Unmarshal([]byte(run(t, filepath.Dir(link), nil, "qemu-img", "map", "--output=json", "-f", "vmdk", link)), &runs); err != nil {
		t.Fatal(err)
	}
	zero := make([]bool, vmdk.SegmentGrains(int64(len(is))))
	for _, r := range runs {
		for g := r.Start / vmdk.GrainBytes; r.Depth == 0 && r.Zero && !r.Data && g*vmdk.GrainBytes < r.Start+r.Length; g++ {
			zero[g] = true
		}
	}
	for g := range zero {
		from, to := g*vmdk.GrainBytes, min((g+1)*vmdk.GrainBytes, len(is))
		becomes := len(bytes.Trim(is[from:to], "\x00")) == 0 && len(bytes.Trim(was[from:to], "\x00")) > 0
		if !becomes {
			continue
		}
		if n++; !zero[g] {
			t.Errorf("%s: grain %d has become zero, its link does not say so", link, g)
		}
	}
	return n
}
