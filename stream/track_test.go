// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// modelTrack computes the digests of a disk's blocks from its bytes.
func modelTrack(key string, b []byte, block int) *DiskTrack {
	b = append(bytes.Clone(b), make([]byte, -len(b)&511)...)
	t := &DiskTrack{Key: key, Runs: []uint32{}, Digests: strictBase64{}}
	for i := 0; i*block < len(b); i++ {
		x := b[i*block : min(i*block+block, len(b))]
		if sum := sha256.Sum256(x); !disk.IsZero(x) {
			t.add(int64(i), blockDigest(sum[:16]))
		}
	}
	return t
}

func sameTrack(a, b *DiskTrack) bool {
	return a.Key == b.Key && slices.Equal(a.Runs, b.Runs) && bytes.Equal(a.Digests, b.Digests)
}

// drawChange changes some ranges of a disk.
func drawChange(t *rapid.T, b []byte) []byte {
	b = bytes.Clone(b)
	for range rapid.IntRange(0, 5).Draw(t, "changes") {
		at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		n := min(rapid.SampledFrom([]int{1, 512, 4096, 65536, 200000, 1 << 20, 3 << 20}).Draw(t, "bytes"), len(b)-at)
		if rapid.IntRange(0, 2).Draw(t, "content") == 0 {
			clear(b[at : at+n])
		} else {
			textLike(b[at:at+n], uint64(at)+rapid.Uint64Range(0, 9).Draw(t, "seed"))
		}
	}
	return b
}

// countingImage counts the bytes that are read.
type countingImage struct {
	*memImage
	read *[]byte // by sector: how often
}

func (c countingImage) ReadAt(p []byte, off int64) (int, error) {
	for g := off / disk.SectorSize; g*disk.SectorSize < off+int64(len(p)); g++ {
		(*c.read)[g]++
	}
	return c.memImage.ReadAt(p, off)
}

// A chain of tracked disks, whatever tells the changes and whatever blocks are
// tracked: each point is restored, its index has the digests of the model, and
// no block is read twice.
func TestTrackProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := drawDisk(t)
		points, streams := [][]byte{first.b}, [][]byte{}
		var parent *Result
		for level := range rapid.IntRange(1, 4).Draw(t, "streams") {
			if level > 0 {
				points = append(points, drawChange(t, points[level-1]))
			}
			now := points[level]
			reads := make([]byte, len(now)/disk.SectorSize+2)
			im := &memImage{b: now, runBytes: rapid.SampledFrom([]int64{512, 65536, 1 << 20}).Draw(t, "run"), dense: rapid.Bool().Draw(t, "dense")}
			d := memDisk("disk", now)
			d.Image = countingImage{im, &reads}
			d.Record.TrackBytes = rapid.SampledFrom([]int64{0, 64 << 10, 128 << 10, 1 << 20}).Draw(t, "track")
			o := testOptions(rapid.SampledFrom([]string{codec.None, codec.LZ4}).Draw(t, "codec"))
			o.ExtentBytes = rapid.SampledFrom([]int64{1 << 20, 2 << 20}).Draw(t, "extent")
			o.ID = fmt.Sprintf("backup-%d", level)
			if level > 0 {
				o.Parent, d.Was = parent.Opening, parent.Index.Track("disk")
				if d.Compare = d.Was != nil && rapid.Bool().Draw(t, "compare"); d.Compare {
					d.Record.TrackBytes = rapid.SampledFrom([]int64{0, d.Was.BlockBytes}).Draw(t, "same track")
				} else {
					d.Changes = &diff{was: points[level-1], is: now, unit: rapid.SampledFrom([]int64{512, 4096, 65536, 1 << 20}).Draw(t, "unit")}
				}
			}
			b, res := propertyWrite(t, []Disk{d}, nil, o)
			for g, n := range reads {
				if n > 1 {
					t.Fatalf("sector %d was read %d times", g, n)
				}
			}
			o.Workers = 1
			o.MemoryBytes = slotBytes(o.ExtentBytes, o.Codec)
			if again, _ := propertyWrite(t, []Disk{d}, nil, o); !bytes.Equal(again, b) {
				t.Fatal("workers and memory change the stream")
			}
			got := res.Index.Track("disk")
			if (got == nil) != (d.Record.TrackBytes == 0) {
				t.Fatalf("level %d: has digests: %v", level, got != nil)
			}
			if got != nil && !sameTrack(got.DiskTrack, modelTrack("disk", now, int(got.BlockBytes))) {
				t.Fatalf("level %d: the digests are not those of the disk", level)
			}
			streams, parent = append(streams, b), res
			checkPoint(t, streams, now, got)
		}
	})
}

// checkPoint restores and merges a chain and compares with what there was.
func checkPoint(t *rapid.T, streams [][]byte, want []byte, track *Track) {
	s := &memSink{ordered: true}
	var ins, again []io.Reader
	for _, b := range streams {
		ins, again = append(ins, bytes.NewReader(b)), append(again, bytes.NewReader(b))
	}
	res, err := ReadChain(t.Context(), ins, s, ReadOptions{Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(s.disks[0].b[:len(want)], want) {
		t.Fatalf("%d streams: the disk is not that of the last backup", len(streams))
	}
	if got := res.Index.Track("disk"); track != nil && !sameTrack(got.DiskTrack, track.DiskTrack) {
		t.Fatal("the digests do not come back")
	}
	if len(streams) == 1 {
		return
	}
	var merged bytes.Buffer
	if _, err := Merge(t.Context(), &merged, again, Options{Codec: codec.Spec{Name: codec.None}, Tool: "test"}); err != nil {
		t.Fatal(err)
	}
	m, res, err := readStream(merged.Bytes(), ReadOptions{})
	if err != nil || !bytes.Equal(m.disks[0].b[:len(want)], want) {
		t.Fatalf("merged: %v", err)
	}
	if got := res.Index.Track("disk"); (got != nil) != (track != nil) || got != nil && !sameTrack(got.DiskTrack, track.DiskTrack) {
		t.Fatal("a merged stream has not the digests of the last one")
	}
}

// A disk that was tracked costs only what has changed, and holes nothing.
func TestCompareCost(t *testing.T) {
	b := diskWith(8<<20, 1, 0, 1, 20, 40, 41, 100)
	o := testOptions(codec.None)
	d := memDisk("disk", b)
	d.Record.TrackBytes = 128 << 10
	_, full := writeStream(t, []Disk{d}, nil, o)
	now := bytes.Clone(b)
	copy(now[20*vmdk.GrainBytes:], "changed")
	clear(now[40*vmdk.GrainBytes : 42*vmdk.GrainBytes])
	d = memDisk("disk", now)
	d.Record.TrackBytes, d.Was, d.Compare = 128<<10, full.Index.Track("disk"), true
	o.ID, o.Parent = "backup-0002", full.Opening
	_, inc := writeStream(t, []Disk{d}, nil, o)
	if got := inc.Index.Disks[0]; got.StoredBytes != vmdk.GrainBytes || got.ReadBytes != 4*vmdk.GrainBytes {
		t.Errorf("stored %d and read %d bytes, want one and four grains", got.StoredBytes, got.ReadBytes)
	}
}

// A sparse disk of 4 TiB takes neither time nor room; one that could take too
// much is refused before it is read.
func TestTrackHuge(t *testing.T) {
	o := testOptions(codec.None)
	o.ExtentBytes = 0
	d := hugeDisk(4 << 40)
	d.Record.TrackBytes = MinTrackBytes
	_, full := writeStream(t, []Disk{d}, nil, o)
	if n := len(full.IndexJSON); n > 8<<10 {
		t.Errorf("an index of %d bytes", n)
	}
	d.Was, d.Compare = full.Index.Track("disk"), true
	o.ID, o.Parent = "backup-0002", full.Opening
	if _, inc := writeStream(t, []Disk{d}, nil, o); inc.Index.Disks[0].Extents != 1 {
		t.Errorf("%d extents", inc.Index.Disks[0].Extents)
	}
	o.Parent = nil
	d = memDisk("disk", nil)
	d.Image, d.Record.TrackBytes = &denseImage{zeroImage{size: 4 << 40}}, MinTrackBytes
	if _, err := Write(context.Background(), io.Discard, []Disk{d}, nil, o); err == nil || expectation(err) != expectUnsupported {
		t.Errorf("4 TiB of data in blocks of 64 KiB: %v", err)
	}
}

// denseImage is a disk that cannot be read and tells nothing of its zeros.
type denseImage struct{ zeroImage }

func (d *denseImage) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	return func(yield func(disk.Run, error) bool) {
		yield(disk.Run{Offset: off, Length: min(n, d.size-off), Kind: disk.Data}, nil)
	}
}

// A short stream that says that it has the digests of 64 TiB takes no memory
// for them.
func TestTrackAllocations(t *testing.T) {
	o := testOptions(codec.None)
	o.ExtentBytes = 64 << 20
	d := memDisk("disk", vecDisk(1<<20, 0))
	d.Record.TrackBytes = MinTrackBytes
	b, res := writeStream(t, []Disk{d}, nil, o)
	f := take(t, b, res)
	f.opening(func(o map[string]any) {
		disks := o["disks"].([]any)
		more := map[string]any{}
		for k, v := range disks[0].(map[string]any) {
			more[k] = v
		}
		more["key"], more["file"], more["capacity_bytes"] = "huge", "huge.vmdk", int64(1)<<46
		o["disks"] = append(disks, more)
	})
	var opening Opening
	if err := json.Unmarshal(f.members[0].body, &opening); err != nil || opening.trackBound() != maxTrackIndex {
		t.Fatalf("%v, %d bytes for digests", err, opening.trackBound())
	}
	r := &streamReader{in: bytes.NewReader(b), count: new(Counters)}
	n := allocatedBy(func() {
		if _, err := r.content(&member{size: maxTrackIndex}, 0); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v", err)
		}
	})
	if n > 8<<20 {
		t.Errorf("%d bytes of heap for a stream of %d", n, len(b))
	}
}

// Lists of digests have one form.
func TestTrackForm(t *testing.T) {
	digest := bytes.Repeat([]byte{7}, blockDigestBytes)
	for name, c := range map[string]struct {
		runs  []uint32
		n     int
		valid bool
	}{
		"none": {nil, 0, true}, "one": {[]uint32{3, 1}, 1, true}, "all": {[]uint32{0, 10}, 10, true}, "two": {[]uint32{0, 1, 2, 8}, 9, true},
		"odd": {[]uint32{3}, 0, false}, "empty run": {[]uint32{3, 0}, 0, false}, "behind": {[]uint32{9, 2}, 2, false},
		"touching": {[]uint32{0, 1, 1, 1}, 2, false}, "overlapping": {[]uint32{0, 2, 1, 2}, 4, false}, "order": {[]uint32{5, 1, 0, 1}, 2, false},
		"too few": {[]uint32{0, 2}, 1, false}, "too many": {[]uint32{0, 2}, 3, false}, "wraps": {[]uint32{1, 1<<32 - 1}, 0, false},
	} {
		tr := &DiskTrack{Key: "disk", Runs: c.runs, Digests: bytes.Repeat(digest, c.n)}
		if err := tr.validate(10); (err == nil) != c.valid {
			t.Errorf("%s: %v", name, err)
		}
	}
	zero := &DiskTrack{Key: "disk", Runs: []uint32{0, 1}, Digests: make([]byte, blockDigestBytes)}
	if zero.validate(10) == nil {
		t.Error("a digest of zeros is accepted")
	}
	for _, s := range []string{`"AAAAAAAAAAAAAAAAAAAAAB=="`, `"AAAA\n"`, `"AAA"`, `1`, `null`} {
		var b strictBase64
		if err := json.Unmarshal([]byte(s), &b); err == nil && s != "null" {
			t.Errorf("%s: accepted", s)
		}
	}
}
