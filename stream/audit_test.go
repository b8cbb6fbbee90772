// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// Changes that tell the truth stand every audit; one that hides a change does
// not stand an audit of everything, whether blocks or extents are compared.
func TestAuditProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := drawDisk(t)
		o := testOptions(codec.None)
		o.ExtentBytes = rapid.SampledFrom([]int64{1 << 20, 2 << 20}).Draw(t, "extent")
		d := memDisk("disk", first.b)
		d.Image = first
		d.Record.TrackBytes = rapid.SampledFrom([]int64{0, 64 << 10, 1 << 20}).Draw(t, "track")
		_, full := propertyWrite(t, []Disk{d}, nil, o)

		said := drawChange(t, first.b) // what the changes know of
		now := bytes.Clone(said)
		at := rapid.IntRange(0, len(now)-1).Draw(t, "hidden at")
		now[at] ^= 1
		if rapid.Bool().Draw(t, "zeroed") {
			clear(now[at/4096*4096 : min(at/4096*4096+4096, len(now))])
		}
		audit := func(is []byte, share float64) (int64, error) {
			d := memDisk("disk", is)
			d.Image = &memImage{b: is, runBytes: rapid.SampledFrom([]int64{512, 65536}).Draw(t, "run"), dense: rapid.Bool().Draw(t, "dense")}
			d.Was = full.Index.Track("disk")
			d.Changes = &diff{was: first.b, is: said, unit: rapid.SampledFrom([]int64{512, 65536}).Draw(t, "unit")}
			return Audit(t.Context(), []Disk{d}, full.Index, AuditOptions{ID: "x", Share: share, Workers: 2})
		}
		for _, share := range []float64{1, 0.3, 0.01} {
			if _, err := audit(said, share); err != nil {
				t.Fatalf("share %v of what has not changed: %v", share, err)
			}
		}
		unit := d.Record.TrackBytes // what is compared as a whole
		if unit == 0 {
			unit = o.ExtentBytes
		}
		from := int64(at) / unit * unit
		to := min(from+unit, int64(len(now)))
		inside := bytes.Equal(first.b[from:to], said[from:to])
		if _, err := audit(now, 1); inside && !bytes.Equal(said, now) != errors.Is(err, ErrUntrusted) {
			t.Fatalf("a change at %d was hidden: %v", at, err)
		}
	})
}

// The sample has the share that was asked for, all units can be in it, and it
// is the same for the same backup.
func TestAuditSample(t *testing.T) {
	b := textLike(make([]byte, 32<<20), 1)
	o := testOptions(codec.None)
	d := memDisk("disk", b)
	d.Record.TrackBytes = MinTrackBytes
	_, full := writeStream(t, []Disk{d}, nil, o)
	d.Was, d.Changes = full.Index.Track("disk"), &diff{was: b, is: b, unit: 1 << 20}
	for share, want := range map[float64]int64{1: 512, 0.5: 256, 0.01: 5, 0.00001: 1} {
		n, err := Audit(t.Context(), []Disk{d}, full.Index, AuditOptions{ID: "x", Share: share})
		if got := n / vmdk.GrainBytes; err != nil || got < want || got > want+1 {
			t.Errorf("share %v: %d blocks, %v; want %d", share, got, err, want)
		}
	}
	seen := map[int64]bool{}
	for _, id := range []string{"a", "b", "a"} {
		a := &auditor{opt: &AuditOptions{ID: id, Share: 0.01}, disk: &d, units: unitSet{n: 512, ranges: []auditRange{{0, 500}, {1000, 1012}}}}
		for i := range a.sample {
			seen[i] = true
		}
	}
	if len(seen) < 6 || len(seen) > 12 {
		t.Errorf("two samples of five or six of 512 are %d", len(seen))
	}
}

// An increment without digests has nothing to compare with, and says so.
func TestAuditNothing(t *testing.T) {
	h := makeHistory(t, 4, 2<<20, 1, 4096, codec.None)
	d := memDisk("disk", h.points[1])
	d.Changes = &diff{was: h.points[1], is: h.points[1], unit: 4096}
	told := ""
	n, err := Audit(t.Context(), []Disk{d}, h.results[1].Index, AuditOptions{ID: "x", Share: 1, Detail: func(s string) { told = s }})
	if n != 0 || err != nil || told == "" {
		t.Errorf("%d bytes, %v, %q", n, err, told)
	}
	d = memDisk("disk", make([]byte, 1<<20))
	d.Changes = &diff{was: make([]byte, 1<<20), is: make([]byte, 1<<20), unit: 4096}
	if _, err := Audit(t.Context(), []Disk{d}, h.results[0].Index, AuditOptions{ID: "x", Share: 1}); !errors.Is(err, disk.ErrMismatch) {
		t.Errorf("another capacity: %v", err)
	}
}

// What could be sampled is kept as ranges, each unit once, and not without end.
func TestAuditRanges(t *testing.T) {
	var u unitSet
	for _, r := range []auditRange{{0, 2}, {1, 3}, {3, 4}, {6, 6}, {6, 7}, {2, 7}} {
		u.add(r.from, r.to)
	}
	if len(u.ranges) != 2 || u.n != 5 || u.full {
		t.Errorf("%+v", u)
	}
	u = unitSet{}
	for i := range int64(maxAuditRanges + 3) {
		if u.full != (i > maxAuditRanges) {
			t.Fatalf("full after %d ranges: %v", i, u.full)
		}
		u.add(2*i, 2*i+1)
	}
	if len(u.ranges) != maxAuditRanges || u.n != maxAuditRanges {
		t.Errorf("%d ranges of %d units", len(u.ranges), u.n)
	}
}
