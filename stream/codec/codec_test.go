// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package codec

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os/exec"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
)

// sample is content with text-like, random and zero parts, n bytes.
func sample(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := 0; i < n; i++ {
		switch i >> 14 % 3 {
		case 0:
			b[i] = byte(r.Uint32())
		case 1:
			b[i] = "the quick brown fox "[(i+int(r.Uint32()&1))%20]
		}
	}
	return b
}

// frames is b in frames, with the pointer where the codec has one.
func frames(tb testing.TB, s Spec, b []byte) []byte {
	tb.Helper()
	e, err := s.NewEncoder()
	if err != nil {
		tb.Fatal(err)
	}
	var out []byte
	total := len(b)
	for len(b) > 0 {
		n := min(len(b), FrameSize)
		before := len(out)
		if out, err = e.Encode(out, b[:n]); err != nil {
			tb.Fatal(err)
		}
		if got := len(out) - before; got > Bound(n) {
			tb.Fatalf("%s: frame of %d bytes is %d bytes long, Bound says %d", s.Name, n, got, Bound(n))
		}
		b = b[n:]
	}
	if s.HasPointer() {
		out = Pointer{TarBytes: int64(total), CRC: UpdateCRC(0, out)}.Append(out)
	}
	return out
}

func specs() []Spec {
	return []Spec{{Name: Zstd, Level: 1}, {Name: Zstd}, {Name: Zstd, Level: 19}, {Name: LZ4}, {Name: LZ4, Level: 9}, {Name: XZ}, {Name: XZ, Level: 1}}
}

func decode(b []byte, workers int) ([]byte, *Reader, error) {
	r, err := NewReader(bytes.NewReader(b), workers)
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err == nil {
		_, err = r.Boundary()
	}
	return got, r, err
}

func TestRoundTrip(t *testing.T) {
	for _, s := range specs() {
		for _, n := range []int{1, 511, FrameSize, 2*FrameSize + 77} {
			want := sample(n)
			enc := frames(t, s, want)
			for _, workers := range []int{1, 3} {
				got, r, err := decode(enc, workers)
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%v, %d bytes: %v, equal %v", s, n, err, bytes.Equal(got, want))
				}
				offs, ok := r.Frames()
				if !ok || len(offs) != (n+FrameSize-1)/FrameSize+1 {
					t.Errorf("%v, %d bytes: %d frame offsets", s, n, len(offs))
				}
				if s.HasPointer() != (r.Pointer() != nil) {
					t.Errorf("%v: pointer %v", s, r.Pointer())
				}
			}
		}
	}
}

// Random bytes do not become much longer, in whatever codec.
func TestBound(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	b := make([]byte, FrameSize)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	for _, s := range specs() {
		for _, n := range []int{1, 100, 65536, 65537, FrameSize - 1, FrameSize} {
			frames(t, s, b[:n])
		}
	}
}

func TestForeignPrograms(t *testing.T) {
	testenv.Long(t)
	seen := map[string]bool{}
	for _, s := range specs() {
		want := sample(2*FrameSize + 3)
		plain := frames(t, s, want)
		if s.HasPointer() {
			plain = plain[:len(plain)-PointerSize]
		}
		tool := testenv.Tool(t, s.Name)
		c := exec.Command(tool, "-dc")
		c.Stdin = bytes.NewReader(frames(t, s, want))
		var stderr bytes.Buffer
		c.Stderr = &stderr
		got, err := c.Output()
		if err != nil || stderr.Len() > 0 || !bytes.Equal(got, want) {
			t.Errorf("%s -dc on %v: %v, %q, equal %v", s.Name, s, err, stderr.String(), bytes.Equal(got, want))
		}
		// And the other way: what the program writes, in frames of its own.
		if seen[s.Name] {
			continue
		}
		seen[s.Name] = true
		for _, args := range [][]string{{"-c"}, {"-c", "-9"}} {
			c := exec.Command(tool, args...)
			c.Stdin = bytes.NewReader(want)
			enc, err := c.Output()
			if err != nil {
				t.Fatal(err)
			}
			for _, stream := range [][]byte{enc, append(bytes.Clone(enc), plain...)} {
				got, _, err := decode(stream, 2)
				if err != nil || !bytes.HasPrefix(got, want) || len(got)%len(want) != 0 {
					t.Errorf("%s %v: %v, %d bytes", s.Name, args, err, len(got))
				}
			}
			for _, cut := range []int{1, 3, 4, 11, 100, len(enc) / 2} {
				if _, _, err := decode(enc[:len(enc)-cut], 2); err == nil {
					t.Errorf("%s %v: cut by %d bytes is not noticed", s.Name, args, cut)
				}
			}
		}
	}
}

// Every damage of a compressed stream shows at this layer.
func TestDamage(t *testing.T) {
	for _, s := range []Spec{{Name: Zstd}, {Name: LZ4}, {Name: XZ}} {
		want := append(sample(100), make([]byte, 400)...)
		one := frames(t, s, want)
		for i := range one {
			for _, bit := range []byte{1, 0x80, 0xff} {
				bad := bytes.Clone(one)
				bad[i] ^= bit
				if got, r, err := decode(bad, 1); err == nil && r.Codec() == s.Name && (!s.HasPointer() || r.Pointer() != nil) {
					t.Errorf("%s: byte %d of %d ^ %#x not noticed, content equal: %v", s.Name, i, len(one), bit, bytes.Equal(got, want))
				}
			}
			if _, r, err := decode(one[:i], 1); err == nil && i > 0 && r.Codec() == s.Name && r.Pointer() != nil {
				t.Errorf("%s: cut at %d not noticed", s.Name, i)
			}
		}
		for _, tail := range [][]byte{{0}, {0, 0, 0, 0}, []byte("garbage"), one, {0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}} {
			_, r, err := decode(append(bytes.Clone(one), tail...), 1)
			if err == nil && (s.HasPointer() || !bytes.Equal(tail, one)) {
				t.Errorf("%s: %x behind the end not noticed, pointer %v", s.Name, tail[:min(len(tail), 8)], r.Pointer())
			}
		}
	}
}

func FuzzReader(f *testing.F) {
	for _, s := range []Spec{{Name: Zstd}, {Name: LZ4}, {Name: XZ}} {
		f.Add(frames(f, s, sample(3000)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		one, _, err1 := decode(b, 1)
		two, _, err2 := decode(b, 2)
		if (err1 == nil) != (err2 == nil) || err1 == nil && !bytes.Equal(one, two) {
			t.Fatalf("1 and 2 workers differ: %v, %v", err1, err2)
		}
	})
}

func FuzzPointer(f *testing.F) {
	f.Add(Pointer{IndexFrame: 3, IndexTar: 5, TarBytes: 7, CRC: 9}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok, err := ParsePointer(b); ok && err == nil && !bytes.Equal(p.Append(nil), b) {
			t.Fatal("accepted a pointer that is not written that way")
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	data := sample(16 * FrameSize)
	for _, s := range []Spec{{Name: Zstd, Level: 1}, {Name: Zstd}, {Name: LZ4}, {Name: XZ}} {
		b.Run(s.Name, func(b *testing.B) {
			e, err := s.NewEncoder()
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				dst = dst[:0]
				for o := 0; o < len(data); o += FrameSize {
					if dst, err = e.Encode(dst, data[o:o+FrameSize]); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func BenchmarkCRC(b *testing.B) {
	data := sample(FrameSize)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		UpdateCRC(0, data)
	}
}
