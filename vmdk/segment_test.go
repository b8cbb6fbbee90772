// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

// packedSegment is a packed segment with these grains and content in each of them.
func packedSegment(tb testing.TB, capacity int64, grains []GrainState) []byte {
	tb.Helper()
	b := make([]byte, SegmentOverhead(capacity))
	n := PutSegment(b, capacity, grains)
	for i, s := range grains {
		if s == GrainStored {
			b = append(b, bytes.Repeat([]byte{byte(i) | 1}, GrainBytes)...)
		}
	}
	if int64(len(b)) != n {
		tb.Fatalf("a segment of %d bytes, PutSegment says %d", len(b), n)
	}
	return b
}

func parseSegment(b []byte) (SegmentHeader, []GrainState, error) {
	h, err := ParseSegmentHeader((*[disk.SectorSize]byte)(b))
	if err != nil {
		return h, nil, err
	}
	g := make([]GrainState, SegmentGrains(h.CapacityBytes))
	_, err = h.ParseSegment(b[:h.Overhead], g)
	return h, g, err
}

// The sizes are those of the tables in docs/format.md.
func TestSegmentSizes(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct{ capacity, overhead, empty int64 }{
		{512, 65536, 65536},
		{mib, 65536, 65536},
		{32 * mib, 65536, 65536},
		{64 * mib, 65536, 65536},
		{448 * mib, 65536, 65536},
		{512 * mib, 131072, 65536},
		{MaxSegmentBytes, 196608, 65536},
		{64 << 30, 0, 589824},
		{1 << 40, 0, 8454144},
	} {
		if c.overhead != 0 && int64(SegmentOverhead(c.capacity)) != c.overhead {
			t.Errorf("%d bytes: overhead %d, want %d", c.capacity, SegmentOverhead(c.capacity), c.overhead)
		}
		if got := EmptySegmentSize(c.capacity); got != c.empty {
			t.Errorf("%d bytes: empty segment of %d bytes, want %d", c.capacity, got, c.empty)
		}
	}
}

// What is written is read back, for capacities of all kinds.
func TestSegmentRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, capacity := range []int64{512, 65536, 65536 + 512, 1 << 20, 33<<20 + 512, 64 << 20, MaxSegmentBytes} {
		grains := make([]GrainState, SegmentGrains(capacity))
		zeros := false
		for i := range grains {
			grains[i] = GrainState(r.IntN(2) * 2)
			if i%97 == 5 {
				grains[i], zeros = GrainZero, true
			}
		}
		b := make([]byte, SegmentOverhead(capacity))
		n := PutSegment(b, capacity, grains)
		h, got, err := parseSegment(b)
		if err != nil || !bytes.Equal(stateBytes(got), stateBytes(grains)) {
			t.Fatalf("%d: %v, or the grains differ", capacity, err)
		}
		stored := int64(bytes.Count(stateBytes(grains), []byte{byte(GrainStored)}))
		want := SegmentHeader{CapacityBytes: roundSectors(capacity), ExplicitZeros: zeros, Overhead: int64(len(b))}
		if h != want || n != int64(len(b))+stored*GrainBytes {
			t.Errorf("%d: %+v and %d bytes", capacity, h, n)
		}
		again := make([]byte, len(b))
		h.PutHeader(again)
		if !bytes.Equal(again[:512], b[:512]) {
			t.Errorf("%d: PutHeader differs from PutSegment", capacity)
		}
	}
}

func roundSectors(n int64) int64 { return ceilDiv(n, 512) * 512 }

func stateBytes(g []GrainState) []byte {
	b := make([]byte, len(g))
	for i := range g {
		b[i] = byte(g[i])
	}
	return b
}

// Every bit of the metadata counts.
func TestSegmentEveryBit(t *testing.T) {
	b := packedSegment(t, 1<<20, []GrainState{0, 2, 1, 2, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2})[:65536]
	for i := range b {
		for bit := range 8 {
			if i >= 12*512 && (i*8+bit)%101 != 0 { // all of the fields, some of the padding
				continue
			}
			b[i] ^= 1 << bit
			h, _, err := parseSegment(b)
			// A capacity may be any that has the same number of tables; it is
			// the stream that knows it.
			other := i >= 12 && i < 20 && err == nil && h.CapacityBytes != 1<<20
			if !errors.Is(err, disk.ErrCorrupt) && !other {
				t.Errorf("byte %d bit %d: %v", i, bit, err)
			}
			b[i] ^= 1 << bit
		}
	}
}

// EmptySegment gives its bytes whatever the reads are, and they are those of
// PutSegment but for the grain size.
func TestEmptySegment(t *testing.T) {
	for _, state := range []GrainState{GrainAbsent, GrainZero} {
		for _, capacity := range []int64{512, 1 << 20, 100<<20 + 512, 3 << 30} {
			want, err := io.ReadAll(EmptySegment(capacity, state))
			if err != nil || int64(len(want)) != EmptySegmentSize(capacity) {
				t.Fatalf("%d: %d bytes, %v", capacity, len(want), err)
			}
			odd := make([]byte, 0, len(want))
			r := EmptySegment(capacity, state)
			for buf := make([]byte, 1000); ; {
				n, err := r.Read(buf)
				odd = append(odd, buf[:n]...)
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(odd, want) {
				t.Errorf("%d: reads of 1000 bytes give something else", capacity)
			}
			h, err := ParseSegmentHeader((*[512]byte)(want))
			if err != nil || !h.Empty || h.ExplicitZeros != (state == GrainZero) || h.CapacityBytes != capacity || h.Overhead != int64(len(want)) {
				t.Errorf("%d: %+v, %v", capacity, h, err)
			}
		}
	}
}

func TestSegmentHeaderRefused(t *testing.T) {
	for name, edit := range map[string]func(h *sparseHeader){
		"no capacity":       func(h *sparseHeader) { h.capacity = 0 },
		"above every disk":  func(h *sparseHeader) { h.capacity = disk.MaxSize/512 + 1 },
		"wraps around":      func(h *sparseHeader) { h.capacity = 1 << 63 },
		"large with grains": func(h *sparseHeader) { h.capacity = MaxSegmentBytes/512 + 1 },
		"other grains":      func(h *sparseHeader) { h.grainSize = 64 },
		"embedded text":     func(h *sparseHeader) { h.descriptorOffset, h.descriptorSize = 1, 20 },
		"unclean":           func(h *sparseHeader) { h.uncleanShutdown = 1 },
		"compressed":        func(h *sparseHeader) { h.flags |= flagCompressed },
		"deflate":           func(h *sparseHeader) { h.compressAlgorithm = 1 },
		"one directory":     func(h *sparseHeader) { h.rgdOffset = 0 },
	} {
		b := packedSegment(t, 1<<20, make([]GrainState, 16))
		h := parseSparseHeader((*[512]byte)(b))
		edit(&h)
		h.encode((*[512]byte)(b))
		if _, err := ParseSegmentHeader((*[512]byte)(b)); !errors.Is(err, disk.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A row of segments, packed and empty, is a VMDK for QEMU, libvmdk and our own
// reader.
func TestSegmentsAreVMDK(t *testing.T) {
	const mib = 1 << 20
	dir := t.TempDir()
	packed := packedSegment(t, mib, []GrainState{0, 2, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2})
	empty, err := io.ReadAll(EmptySegment(300*mib+512, GrainAbsent))
	if err != nil {
		t.Fatal(err)
	}
	d := &Descriptor{Version: 1, CID: 5, ParentCID: NoParent, CreateType: TypeTwoGbSparse, Extents: []Extent{
		{Access: AccessRW, Sectors: mib / 512, Type: ExtentSparse, Name: "d-s000001.vmdk"},
		{Access: AccessRW, Sectors: 300*mib/512 + 1, Type: ExtentSparse, Name: "d-s000002.vmdk"},
	}}
	text, err := d.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"d.vmdk": text, "d-s000001.vmdk": packed, "d-s000002.vmdk": empty} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "d.vmdk")
	im, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	got := make([]byte, im.Size())
	if _, err := im.ReadAt(got, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	want := make([]byte, 301*mib+512)
	for _, g := range []int{1, 4, 15} {
		for i := range GrainBytes {
			want[g*GrainBytes+i] = byte(g) | 1
		}
	}
	if !bytes.Equal(got, want) {
		t.Error("reads otherwise")
	}
	tool := testenv.Tool(t, "qemu-img")
	raw := filepath.Join(dir, "want.raw")
	if err := os.WriteFile(raw, want, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), tool, "compare", "-f", "vmdk", "-F", "raw", path, raw).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "identical") {
		t.Errorf("qemu-img compare: %v, %s", err, out)
	}
}

// FuzzSegment parses anything as a packed or empty segment: what is accepted is
// byte for byte what would be written.
func FuzzSegment(f *testing.F) {
	f.Add(packedSegment(f, 1<<20, []GrainState{0, 2, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2})[:6*1024])
	f.Add(packedSegment(f, 512, []GrainState{2})[:6*1024])
	e, err := io.ReadAll(EmptySegment(1<<20, GrainZero))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(e[:6*1024])
	f.Fuzz(func(t *testing.T, head []byte) {
		if len(head) < disk.SectorSize {
			return
		}
		h, err := ParseSegmentHeader((*[disk.SectorSize]byte)(head))
		if err != nil {
			if !errors.Is(err, disk.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		again := make([]byte, disk.SectorSize)
		h.PutHeader(again)
		if !bytes.Equal(again, head[:disk.SectorSize]) {
			t.Fatal("accepted a header that is not written that way")
		}
		if h.Empty {
			return
		}
		b := make([]byte, h.Overhead)
		copy(b, head)
		grains := make([]GrainState, SegmentGrains(h.CapacityBytes))
		if _, err := h.ParseSegment(b, grains); err != nil {
			return
		}
		want := make([]byte, h.Overhead)
		PutSegment(want, h.CapacityBytes, grains)
		if !bytes.Equal(b, want) {
			t.Fatal("accepted tables that are not written that way")
		}
	})
}
