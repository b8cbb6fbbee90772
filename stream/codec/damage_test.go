// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package codec

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/vmstream/vmstream/disk"
)

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

// largeFrame is one frame of more content than FrameSize, as other programs
// make them.
func largeFrameOf(tb testing.TB, s Spec, content []byte) []byte {
	tb.Helper()
	e, err := s.NewEncoder()
	if err != nil {
		tb.Fatal(err)
	}
	b, err := e.Encode(nil, content)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// A large frame is decoded while it is read: its damage must show all the same,
// at its beginning, inside, at its end, and behind other frames.
func TestLargeFrameDamage(t *testing.T) {
	content := noise(FrameSize + FrameSize/2)
	for _, s := range []Spec{{Name: Zstd}, {Name: LZ4}, {Name: XZ}} {
		large := largeFrameOf(t, s, content)
		small := largeFrameOf(t, s, []byte("a small frame"))
		got, _, err := decode(append(bytes.Clone(small), large...), 2)
		if err != nil || !bytes.Equal(got[len("a small frame"):], content) {
			t.Fatalf("%s: %v", s.Name, err)
		}
		for _, at := range []int{5, 6, 7, 8, 12, 20, 1000, len(large) / 2, len(large) - 12, len(large) - 5, len(large) - 1} {
			bad := append(bytes.Clone(small), large...)
			bad[len(small)+at] ^= 0x41
			if _, _, err := decode(bad, 2); !errors.Is(err, disk.ErrCorrupt) && !errors.Is(err, disk.ErrTruncated) {
				t.Errorf("%s: byte %d of a large frame: %v", s.Name, at, err)
			}
			if _, _, err := decode(bad[:len(small)+at], 2); !errors.Is(err, disk.ErrTruncated) && (at > 5 || !errors.Is(err, disk.ErrCorrupt)) { // the magic of xz has 6 bytes
				t.Errorf("%s: large frame cut at %d: %v", s.Name, at, err)
			}
		}
	}
}

// A large frame that its decoder refuses at once is an error, not the end.
func TestLargeFrameRefused(t *testing.T) {
	large := largeFrameOf(t, Spec{Name: XZ}, noise(FrameSize+FrameSize/2))
	copy(large[6:], []byte{0, 2, 0x1f, 0x42, 0x2e, 0xf1}) // a check that no program knows; its CRC-32 is right
	small := largeFrameOf(t, Spec{Name: XZ}, []byte("a small frame"))
	if _, _, err := decode(append(small, large...), 2); !errors.Is(err, disk.ErrCorrupt) {
		t.Errorf("unknown check: %v", err)
	}
}

// The error of the input comes back as it is, whenever it happens.
func TestInputError(t *testing.T) {
	boom := errors.New("boom")
	for _, s := range []Spec{{Name: Zstd}, {Name: LZ4}, {Name: XZ}} {
		b := append(frames(t, s, sample(5000)), largeFrameOf(t, s, noise(FrameSize+FrameSize/2))...)
		for _, n := range []int{20, 1000, len(b) - 10} {
			r, err := NewReader(io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(boom)), 2)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, r); !errors.Is(err, boom) && !(s.HasPointer() && errors.Is(err, disk.ErrCorrupt)) {
				t.Errorf("%s: input fails at %d: %v", s.Name, n, err)
			}
			_ = r.Close()
		}
	}
}

// Small reads and short reads of the input change nothing.
func TestSmallReads(t *testing.T) {
	for _, s := range []Spec{{Name: Zstd}, {Name: LZ4}, {Name: XZ}} {
		want := sample(70000)
		r, err := NewReader(iotest.HalfReader(bytes.NewReader(frames(t, s, want))), 2)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(iotest.OneByteReader(r))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v", s.Name, err)
		}
		_ = r.Close()
	}
}

// Closing in the middle releases the goroutines; reading on does not hang.
func TestCloseEarly(t *testing.T) {
	for _, s := range []Spec{{Name: Zstd}, {Name: LZ4}, {Name: XZ}} {
		for _, b := range [][]byte{frames(t, s, sample(3*FrameSize)), largeFrameOf(t, s, sample(2*FrameSize))} {
			r, err := NewReader(bytes.NewReader(b), 2)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(r.Close(), r.Close()); err != nil {
				t.Error(err)
			}
		}
	}
}
