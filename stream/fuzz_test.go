// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream/codec"
)

// A stream is mostly zeros, and the fuzzer is slow on long inputs: in what it
// gets, a zero is followed by how many more there are, in 16 bits.
func unpackZeros(b []byte) []byte {
	const most = 4 << 20
	var out []byte
	for i := 0; i < len(b) && len(out) < most; i++ {
		out = append(out, b[i])
		if b[i] == 0 && i+2 < len(b) {
			out = append(out, make([]byte, int(b[i+1])|int(b[i+2])<<8)...)
			i += 2
		}
	}
	return out
}

func packZeros(b []byte) []byte {
	var out []byte
	for i := 0; i < len(b); i++ {
		out = append(out, b[i])
		if b[i] != 0 {
			continue
		}
		n := 0
		for n < 65535 && i+1 < len(b) && b[i+1] == 0 {
			n, i = n+1, i+1
		}
		out = append(out, byte(n), byte(n>>8))
	}
	return out
}

// seedVectors adds the vectors that are not too long to be changed usefully.
func seedVectors(f *testing.F) {
	for _, v := range loadVectors(f) {
		if p := packZeros(v.b); len(p) < 8<<10 {
			if !bytes.Equal(unpackZeros(p), v.b) {
				f.Fatalf("%s: zeros do not come back", v.name)
			}
			f.Add(p)
		}
	}
}

// FuzzRead reads anything as a stream. One worker and several, memory for
// extents and none, have to agree; what is accepted has to come out the same
// when it is written again.
func FuzzRead(f *testing.F) {
	seedVectors(f)
	f.Fuzz(func(t *testing.T, packed []byte) {
		b := unpackZeros(packed)
		one, first, err1 := readStream(b, ReadOptions{Workers: 1})
		two, _, err2 := readStream(b, ReadOptions{Workers: 3, MemoryBytes: 1})
		if (err1 == nil) != (err2 == nil) {
			t.Fatalf("1 worker: %v; little memory: %v", err1, err2)
		}
		fuzzSeries(t, b, err1)
		if err1 != nil {
			if !isDamage(err1) {
				t.Fatalf("not told as damage: %v", err1)
			}
			return
		}
		for i := range one.disks {
			if one.disks[i] != nil && !bytes.Equal(one.disks[i].b, two.disks[i].b) {
				t.Fatalf("disk %d differs", i)
			}
		}
		if _, err := Read(context.Background(), bytes.NewReader(append(b, 0)), nil, ReadOptions{}); err == nil {
			t.Fatalf("accepts a byte behind the end of %s", first.Opening.Name)
		}
		fuzzPart(t, b, one)
	})
}

// fuzzPart reads each disk of a good stream for itself.
func fuzzPart(t *testing.T, b []byte, whole *memSink) {
	for i := range whole.disks {
		for _, file := range []bool{false, true} {
			s, _, err := readPart(b, []int{i}, ReadOptions{}, file)
			if err != nil { // its frames may be those of another program
				if !isDamage(err) {
					t.Fatalf("disk %d alone: not told as damage: %v", i, err)
				}
				continue
			}
			if s.disks[i] != nil && !bytes.Equal(s.disks[i].b, whole.disks[i].b) {
				t.Fatalf("disk %d alone differs", i)
			}
		}
	}
}

// fuzzSeries reads b as a series: it is one stream if that can be read, and
// otherwise something else that one worker and several agree about.
func fuzzSeries(t *testing.T, b []byte, alone error) {
	one, all, err1 := readSeries(t, b, ReadOptions{Workers: 1})
	two, _, err2 := readSeries(t, b, ReadOptions{Workers: 3, MemoryBytes: 1})
	increment := errors.Is(alone, ErrTarget) // alone it is no disk
	if (err1 == nil) != (err2 == nil) || alone == nil && err1 != nil || err1 == nil && !increment && (len(all) == 1) != (alone == nil) {
		t.Fatalf("alone: %v; as a series: %v; with little memory: %v; %d streams", alone, err1, err2, len(all))
	}
	if err1 != nil && !isDamage(err1) && !errors.Is(err1, disk.ErrMismatch) {
		t.Fatalf("not told as damage: %v", err1)
	}
	for i := range one.disks {
		if err1 == nil && one.disks[i] != nil && !bytes.Equal(one.disks[i].b, two.disks[i].b) {
			t.Fatalf("disk %d differs", i)
		}
	}
}

// FuzzOpening parses anything as an opening record. What is accepted can be
// written and parsed again.
func FuzzOpening(f *testing.F) {
	for _, v := range loadVectors(f) {
		if m, n, err := readHeader(bytes.NewReader(v.b)); err == nil && m != nil && m.size < 1<<16 && n+m.size <= int64(len(v.b)) {
			f.Add(v.b[n : n+m.size])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := ParseOpening(b)
		if err != nil {
			if !isDamage(err) {
				t.Fatalf("not told as damage: %v", err)
			}
			return
		}
		again, err := o.encode()
		if err != nil {
			return // a time that JSON cannot write
		}
		if _, err := ParseOpening(again); err != nil {
			t.Fatalf("does not accept what it wrote: %v", err)
		}
		for i := range o.Disks {
			if _, err := o.Disks[i].descriptor(nil); err == nil {
				t.Fatal("a descriptor without extents")
			}
		}
	})
}

// FuzzIndex parses anything as an index.
func FuzzIndex(f *testing.F) {
	for _, c := range codecNames() {
		_, res := baseStream(f, c)
		f.Add(res.IndexJSON)
	}
	for _, res := range smallHistory(f, codec.None).results { // with digests of blocks
		f.Add(res.IndexJSON)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ix, err := ParseIndex(b, -1)
		if err != nil {
			if !isDamage(err) {
				t.Fatalf("not told as damage: %v", err)
			}
			return
		}
		if len(ix.Members) > len(b)/64 {
			t.Fatalf("%d members in %d bytes", len(ix.Members), len(b))
		}
		var at int64
		if _, err := fmt.Sscanf(ix.End.Tar, "%d", &at); err != nil {
			t.Fatal(err)
		}
		for i := 0; i < blockSize; i += 7 {
			bad := bytes.Clone(b)
			bad[len(b)-blockSize+i] ^= 1
			if _, err := ParseIndex(bad, at); err == nil {
				t.Fatalf("byte %d of the end record changed", i)
			}
		}
	})
}

// FuzzTarHeader reads anything as a tar header: only what would be written is
// accepted.
func FuzzTarHeader(f *testing.F) {
	for _, name := range []string{"vm/disk.vmdk", "vm/Größe.vmdk", "long/" + string(bytes.Repeat([]byte{'x'}, 200))} {
		for _, size := range []int64{0, 512, 1 << 40} {
			h, err := (&member{name: name, size: size, mode: fileMode, modTime: testTime}).encode()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(h)
		}
	}
	for name, c := range badHeaders() {
		if b := c.make(f); name != "opening-huge" {
			f.Add(b[:min(len(b), maxHeader)])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, n, err := readHeader(bytes.NewReader(b))
		if err != nil || m == nil {
			return
		}
		want, err := m.encode()
		if err != nil || n > int64(len(b)) || !bytes.Equal(b[:n], want) || m.size < 0 {
			t.Fatalf("accepted %q (%v), which is not written that way", m.name, err)
		}
	})
}

// FuzzExtent changes an extent of a stream whose digests all fit: it is
// accepted only if nothing but grains changed.
func FuzzExtent(f *testing.F) {
	fo := base(f)
	meta := fo.members[fo.at(firstExtent)].body[:65536]
	f.Add(packZeros(meta))
	for at, v := range map[int]uint32{4: 2, 8: 7, 12: 4096, 20: 8, 72: 0x0a0d200b, 512: 7, 7 * 512: 0, 7*512 + 4: 1, 7*512 + 8: 384, 65532: 1} {
		bad := bytes.Clone(meta)
		put32(bad, at, v)
		f.Add(packZeros(bad))
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		meta := unpackZeros(packed)
		fo := base(t)
		good := bytes.Clone(fo.members[fo.at(firstExtent)].body)
		fo.change(firstExtent, func(b []byte) []byte { copy(b[:65536], meta); return b })
		same := bytes.Equal(good, fo.members[fo.at(firstExtent)].body)
		_, _, err := readStream(fo.build(), ReadOptions{Workers: 1})
		if same && err != nil || err != nil && !isDamage(err) {
			t.Fatal(err)
		}
		// The same grains can stand elsewhere in the segment, and others be
		// explicitly zero: nothing else may change.
		if now := fo.members[fo.at(firstExtent)].body; err == nil && now[4] == 1 && !bytes.Equal(good[:512], now[:512]) {
			t.Fatal("accepted a changed header")
		}
	})
}
