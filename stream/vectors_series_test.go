// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// vecPoints is a disk at three points in time: grains written, changed and
// zeroed, in segments that are packed, empty, and become either. The last
// sector is not whole.
func vecPoints() [][]byte {
	first := vecDisk(4<<20+100, 0, 1, 2, 17, 48, 64)
	second := bytes.Clone(first)
	copy(second[2*vmdk.GrainBytes:], "a grain that was changed")
	copy(second[33*vmdk.GrainBytes+5000:], "a grain that is new")
	clear(second[48*vmdk.GrainBytes : 49*vmdk.GrainBytes])
	third := bytes.Clone(second)
	clear(third[:2*vmdk.GrainBytes])
	copy(third[4<<20:], "the end was changed")
	return [][]byte{first, second, third}
}

// vecChain is a chain of vecPoints, by digests of blocks or by what has changed.
func vecChain(tb testing.TB, c string, track int64) *history {
	h := &history{points: vecPoints()}
	for i, b := range h.points {
		o := testOptions(c)
		o.ID = fmt.Sprintf("backup-000%d", i+1)
		d := memDisk("disk", b)
		d.Record.TrackBytes = track
		if i > 0 {
			o.Parent = h.results[i-1].Opening
			if d.Was = h.results[i-1].Index.Track("disk"); d.Was != nil {
				d.Compare = true
			} else {
				d.Changes = &diff{was: h.points[i-1], is: b, unit: 4096}
			}
		}
		s, res := writeStream(tb, []Disk{d}, []File{memFile("vm.log", fmt.Appendf(nil, "log %d\n", i))}, o)
		h.streams, h.results = append(h.streams, s), append(h.results, res)
	}
	return h
}

func goodSeries(tb testing.TB) []*vector {
	var all []*vector
	add := func(name, about, c string, streams ...[]byte) {
		v := &vector{name: "ok-" + name, expect: expectOK, about: about, codec: c, b: bytes.Join(streams, nil)}
		if len(streams) > 1 {
			v.series = len(streams)
		}
		all = append(all, v)
	}
	plain, tracked := vecChain(tb, codec.None, 0), vecChain(tb, codec.None, 128<<10)
	add("tracked", "digests of blocks of 128 KiB", codec.None, tracked.streams[0])
	add("increment", "an increment alone", codec.None, plain.streams[1])
	add("increment-tracked", "an increment alone, with digests of blocks", codec.None, tracked.streams[1])
	add("series", "a full backup and two increments", codec.None, plain.streams...)
	add("series-tracked", "the same with digests of blocks", codec.None, tracked.streams...)
	zstd, xz := vecChain(tb, codec.Zstd, 0), vecChain(tb, codec.XZ, 0)
	add("series-zstd", "two streams in zstd", codec.Zstd, zstd.streams[:2]...)
	add("series-xz", "two streams in xz", codec.XZ, xz.streams[:2]...)
	add("series-mixed", "streams in zstd, xz and without a codec", codec.Zstd, zstd.streams[0], xz.streams[1], plain.streams[2])
	return all
}

// badSeries are streams that may not follow each other.
func badSeries() map[string]badVector {
	join := func(track int64, order ...int) func(tb testing.TB) []byte {
		return func(tb testing.TB) []byte {
			h := vecChain(tb, codec.None, track)
			var b []byte
			for _, i := range order {
				b = append(b, h.streams[i]...)
			}
			return b
		}
	}
	return map[string]badVector{
		"series-order":    {about: "the second increment before the first", make: join(0, 0, 2, 1), series: 3, expect: expectMismatch},
		"series-missing":  {about: "an increment is missing", make: join(128<<10, 0, 2), series: 2, expect: expectMismatch},
		"series-twice":    {about: "an increment twice", make: join(0, 0, 1, 1), series: 3, expect: expectMismatch},
		"series-full":     {about: "a full backup behind an increment", make: join(0, 0, 1, 0), series: 3, expect: expectMismatch},
		"series-trailing": {about: "a block of zeros behind a series", make: func(tb testing.TB) []byte { return append(join(0, 0, 1)(tb), make([]byte, 512)...) }, series: 2},
		"series-parent": {about: "an increment on another content of the disk", series: 2, expect: expectMismatch, make: func(tb testing.TB) []byte {
			h := vecChain(tb, codec.None, 0)
			o := testOptions(codec.None)
			d := memDisk("disk", h.points[1])
			parent := *h.results[0].Opening
			parent.Disks = append([]DiskRecord{}, parent.Disks...)
			parent.Disks[0].CID = "12345678"
			o.ID, o.Parent, d.Changes = "backup-0002", &parent, &diff{was: h.points[0], is: h.points[1], unit: 4096}
			b, _ := writeStream(tb, []Disk{d}, nil, o)
			return append(h.streams[0], b...)
		}},
	}
}

// badTracks are lists of digests that a reader has to refuse.
func badTracks() map[string]badVector {
	forged := func(edit func(f *forge)) func(tb testing.TB) []byte {
		return func(tb testing.TB) []byte {
			h := vecChain(tb, codec.None, 128<<10)
			f := take(tb, h.streams[0], h.results[0])
			tr := *h.results[0].Index.Tracks[0]
			f.tracks = []*DiskTrack{&tr}
			edit(f)
			return f.build()
		}
	}
	list := func(edit func(t *DiskTrack)) func(tb testing.TB) []byte {
		return forged(func(f *forge) { edit(f.tracks[0]) })
	}
	size := func(n int64) func(tb testing.TB) []byte {
		return forged(func(f *forge) { f.opening(func(o map[string]any) { openingDisk(o, 0)["track_bytes"] = n }) })
	}
	return map[string]badVector{
		"track-none":   {about: "a tracked disk without digests", make: forged(func(f *forge) { f.tracks = nil })},
		"track-more":   {about: "digests of a disk twice", make: forged(func(f *forge) { f.tracks = append(f.tracks, f.tracks[0]) })},
		"track-null":   {about: "digests that are null", make: forged(func(f *forge) { f.tracks[0] = nil })},
		"track-key":    {about: "digests of another disk", make: list(func(t *DiskTrack) { t.Key = "other" })},
		"track-size-0": {about: "digests of a disk that is not tracked", make: size(0)},
		"track-size":   {about: "blocks of 100 KiB", make: size(100 << 10)},
		"track-small":  {about: "blocks of 32 KiB", make: size(32 << 10)},
		"track-large":  {about: "blocks of 2 MiB in segments of 1 MiB", make: size(2 << 20)},
		"track-order":  {about: "runs in another order", make: list(func(t *DiskTrack) { t.Runs = []uint32{8, 1, 0, 2, 24, 1, 32, 1} })},
		"track-touch":  {about: "two runs that are one", make: list(func(t *DiskTrack) { t.Runs = []uint32{0, 1, 1, 1, 8, 1, 24, 1, 32, 1} })},
		"track-behind": {about: "a block behind the end of the disk", make: list(func(t *DiskTrack) { t.Runs = []uint32{0, 2, 8, 1, 24, 1, 33, 1} })},
		"track-empty":  {about: "a run without blocks", make: list(func(t *DiskTrack) { t.Runs = append(t.Runs[:4:4], 12, 0, 24, 1, 32, 1) })},
		"track-odd":    {about: "a run without a length", make: list(func(t *DiskTrack) { t.Runs = t.Runs[:len(t.Runs)-1] })},
		"track-less":   {about: "a digest is missing", make: list(func(t *DiskTrack) { t.Digests = t.Digests[:len(t.Digests)-16] })},
		"track-part":   {about: "part of a digest is missing", make: list(func(t *DiskTrack) { t.Digests = t.Digests[:len(t.Digests)-1] })},
		"track-zero":   {about: "the digest of a block of zeros", make: list(func(t *DiskTrack) { t.Digests = append(make(strictBase64, 16), t.Digests[16:]...) })},
		"track-base64": {about: "base64 with bits that mean nothing", make: forged(func(f *forge) {
			f.indexBody = func(b []byte) []byte {
				b[bytes.Index(b, []byte(`=`))-1]++ // in front of the padding
				return b
			}
		})},
		"track-huge": {about: "an index with room for the digests of 64 TiB behind a small disk", make: forged(func(f *forge) {
			f.end = func(b []byte) []byte { return append(indexHeader(600<<20), b[512:]...) }
		})},
	}
}
