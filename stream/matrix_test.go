// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream/codec"
)

// damage is a stream with something done to it.
type damage struct {
	class, what string
	b           []byte
}

// classes in the order of the table.
var matrixClasses = []string{
	"cut", "flipped bit", "zeroed block", "member dropped", "member duplicated", "members swapped",
	"member of another backup", "member of another VM", "two streams", "trailing bytes",
}

// part is a member of a stream, or what is behind the last listed one.
type part struct {
	name string
	b    []byte
}

// parts cuts a stream where its members begin.
func parts(b []byte, res *Result) []part {
	var p []part
	ms := res.Index.Members
	for i, m := range ms {
		end := m.Frame
		for _, f := range m.Frames {
			end += f
		}
		switch {
		case i+1 < len(ms):
			end = ms[i+1].Frame
		case len(m.Frames) == 0:
			end = m.Tar + blockSize + m.Size + padding(m.Size)
		}
		p = append(p, part{m.Name, b[m.Frame:end]})
		if i+1 == len(ms) {
			p = append(p, part{IndexName, b[end:]})
		}
	}
	return p
}

func join(p []part) []byte {
	var b []byte
	for i := range p {
		b = append(b, p[i].b...)
	}
	return b
}

// matrixSample is what is damaged: a small stream for single bytes, one with
// many members, and others to take members from.
type matrixSample struct {
	small                []byte
	main, other, foreign []part // another backup of the same VM; another VM
	same                 []part // another backup of the same, unchanged VM
	smallOther           []byte
}

func newMatrixSample(tb testing.TB, c string) *matrixSample {
	const mib = 1 << 20
	s := &matrixSample{}
	file := func() []File {
		return []File{memFile("vm.vmx", []byte("displayName = \"vm\"\n")), memFile("vm.nvram", []byte("nvram"))}
	}
	s.small, _ = writeStream(tb, []Disk{memDisk("disk", diskWith(512, 1, 0))}, file()[:1], testOptions(c))
	s.smallOther, _ = writeStream(tb, []Disk{memDisk("disk", diskWith(512, 2, 0))}, file()[:1], testOptions(c))
	make2 := func(seed uint64, o Options) []part {
		d := []Disk{memDisk("disk", diskWith(5*mib, seed, 1, 17, 18, 70)), memDisk("b", diskWith(2*mib, 50, 0, 16))}
		b, res := writeStream(tb, d, file(), o)
		return parts(b, res)
	}
	o := testOptions(c)
	s.main = make2(10, o)
	o.ID, o.Created = "backup-0002", testTime.AddDate(0, 0, 1)
	s.other, s.same = make2(20, o), make2(10, o)
	o.ID, o.Name = "backup-0003", "other"
	s.foreign = make2(30, o)
	return s
}

// bytewise yields damage at single places of the small stream; every takes all
// of them, otherwise n of each class are tried.
func (s *matrixSample) bytewise(every bool, n int, r *rand.Rand) iter.Seq[damage] {
	offsets := func(limit int) []int {
		if every {
			return sequence(limit)
		}
		o := []int{0, 1, limit - 1, limit - 2}
		for len(o) < n {
			o = append(o, r.IntN(limit))
		}
		return o
	}
	return func(yield func(damage) bool) {
		for _, i := range offsets(len(s.small)) {
			if !yield(damage{"cut", fmt.Sprint(i), s.small[:i]}) {
				return
			}
		}
		for _, i := range offsets(len(s.small)) {
			b := bytes.Clone(s.small)
			bit := r.IntN(8)
			b[i] ^= 1 << bit
			if !yield(damage{"flipped bit", fmt.Sprintf("%d.%d", i, bit), b}) {
				return
			}
		}
		for i := 0; i < len(s.small); i += blockSize {
			b := bytes.Clone(s.small)
			clear(b[i:min(i+blockSize, len(b))])
			if !bytes.Equal(b, s.small) && !yield(damage{"zeroed block", fmt.Sprint(i), b}) {
				return
			}
		}
	}
}

func sequence(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

// memberwise yields everything that can happen to whole members.
func (s *matrixSample) memberwise() iter.Seq[damage] {
	return func(yield func(damage) bool) {
		whole := join(s.main)
		give := func(class, what string, p []part) bool {
			b := join(p)
			return bytes.Equal(b, whole) || yield(damage{class, what, b})
		}
		for i := range s.main {
			if !give("member dropped", s.main[i].name, slices.Delete(slices.Clone(s.main), i, i+1)) ||
				!give("member duplicated", s.main[i].name, slices.Insert(slices.Clone(s.main), i, s.main[i])) {
				return
			}
			for j := range i {
				p := slices.Clone(s.main)
				p[i], p[j] = p[j], p[i]
				if !give("members swapped", p[i].name+", "+p[j].name, p) {
					return
				}
			}
			for _, from := range []struct {
				class string
				p     []part
			}{{"member of another backup", s.other}, {"member of another backup", s.same}, {"member of another VM", s.foreign}} {
				p := slices.Clone(s.main)
				if i >= len(from.p) {
					continue
				}
				p[i] = from.p[i]
				if !give(from.class, p[i].name, p) {
					return
				}
				// From here on, and up to here, but not all of it.
				if i+1 == len(s.main) {
					continue
				}
				if !give(from.class, "from "+p[i].name, append(slices.Clone(s.main[:i+1]), from.p[i+1:]...)) ||
					!give(from.class, "to "+p[i].name, append(slices.Clone(from.p[:i+1]), s.main[i+1:]...)) {
					return
				}
			}
		}
	}
}

// tails are what may stand behind the end of a stream; making them takes a while.
var tails = sync.OnceValue(func() map[string][]byte {
	var t bytes.Buffer
	w := tar.NewWriter(&t)
	_ = w.WriteHeader(&tar.Header{Name: "x", Typeflag: tar.TypeReg, Mode: 0o600})
	_ = w.Close()
	m := map[string][]byte{
		"0": {0}, "block of zeros": make([]byte, blockSize), "10 KiB of zeros": make([]byte, 10240),
		"text": []byte("garbage"), "random": random(5000), "tar": t.Bytes(), "4 zeros": make([]byte, 4),
		"skippable frame": {0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}, "pointer": codec.Pointer{}.Append(nil),
		"large xz stream with an unknown check": unknownCheck(random(3 << 19)),
	}
	for _, c := range codecNames()[1:] {
		e, _ := codec.Spec{Name: c}.NewEncoder()
		m["empty frame of "+c], _ = e.Encode(nil, nil)
		m["frame of "+c], _ = e.Encode(nil, make([]byte, blockSize))
		m["large frame of "+c], _ = e.Encode(nil, random(3<<19))
	}
	return m
})

// appended yields streams with something behind their end.
func (s *matrixSample) appended() iter.Seq[damage] {
	return func(yield func(damage) bool) {
		for what, t := range map[string][]byte{"itself": s.small, "another": s.smallOther} {
			if !yield(damage{"two streams", what, append(bytes.Clone(s.small), t...)}) {
				return
			}
		}
		for what, t := range tails() {
			if len(t) > 0 && !yield(damage{"trailing bytes", what, append(bytes.Clone(s.small), t...)}) {
				return
			}
		}
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(7, uint64(n)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// unknownCheck is an xz stream whose header announces a check that no program
// knows; its stored chunks are longer than what is collected before decoding.
func unknownCheck(content []byte) []byte {
	e, _ := codec.Spec{Name: codec.XZ}.NewEncoder()
	b, _ := e.Encode(nil, content)
	copy(b[6:], []byte{0, 2, 0x1f, 0x42, 0x2e, 0xf1}) // flags and their CRC-32
	return b
}

// tally counts what was tried and what was detected.
type tally struct {
	mu    sync.Mutex
	tried map[[2]string]int // class, codec
	found map[[2]string]int
}

func (m *tally) count(class, c string, detected bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tried[[2]string{class, c}]++
	if detected {
		m.found[[2]string{class, c}]++
	}
}

func (m *tally) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "| damage | %s |\n|---|%s\n", strings.Join(codecNames(), " | "), strings.Repeat("---:|", len(codecNames())))
	for _, class := range matrixClasses {
		fmt.Fprintf(&b, "| %s |", class)
		for _, c := range codecNames() {
			k := [2]string{class, c}
			fmt.Fprintf(&b, " %d/%d |", m.found[k], m.tried[k])
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// TestMatrix damages streams in every way that storage, transport and operators
// do. Each must be refused as damaged, with digests and, except for changed
// content, without. VMSTREAM_MATRIX=full tries every byte and prints the table.
func TestMatrix(t *testing.T) {
	full := os.Getenv("VMSTREAM_MATRIX") == "full"
	m := &tally{tried: map[[2]string]int{}, found: map[[2]string]int{}}
	t.Run("codec", func(t *testing.T) {
		for _, c := range codecNames() {
			t.Run(c, func(t *testing.T) {
				t.Parallel()
				matrixOf(t, c, full, m)
			})
		}
	})
	for _, class := range matrixClasses {
		for _, c := range codecNames() {
			if m.tried[[2]string{class, c}] == 0 {
				t.Errorf("%s: nothing was tried with codec %s", class, c)
			}
		}
	}
	t.Logf("detected/tried:\n%s", m.markdown())
}

func matrixOf(t *testing.T, c string, full bool, m *tally) {
	s := newMatrixSample(t, c)
	for _, b := range [][]byte{s.small, join(s.main), join(s.other), join(s.foreign)} {
		if _, _, err := readStream(b, ReadOptions{}); err != nil {
			t.Fatalf("undamaged: %v", err)
		}
	}
	n := 2000
	if testing.Short() {
		n = 60
	}
	r := rand.New(rand.NewPCG(42, uint64(len(c))))
	for _, seq := range []iter.Seq[damage]{s.bytewise(full, n, r), s.memberwise(), s.appended()} {
		for d := range seq {
			_, err := Read(t.Context(), bytes.NewReader(d.b), nil, ReadOptions{Workers: 2})
			_, ferr := Read(t.Context(), nil, nil, ReadOptions{Workers: 2, File: &FileInput{R: bytes.NewReader(d.b)}})
			ok := isDamage(err) && isDamage(ferr)
			m.count(d.class, c, ok)
			if !ok {
				t.Errorf("%s: %s (%s): %v, from a file %v", c, d.class, d.what, err, ferr)
			}
		}
	}
}

// isDamage reports if err is one of the kinds that Read promises for damage.
func isDamage(err error) bool {
	return errors.Is(err, disk.ErrCorrupt) || errors.Is(err, disk.ErrTruncated) || errors.Is(err, disk.ErrUnsupported)
}
