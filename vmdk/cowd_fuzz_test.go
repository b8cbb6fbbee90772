// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

// memExtent is an extent file in memory.
type memExtent struct{ b []byte }

func (m *memExtent) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.b).ReadAt(p, off)
}

func (m *memExtent) WriteAt(p []byte, off int64) (int, error) {
	if over := off + int64(len(p)) - int64(len(m.b)); over > 0 {
		m.b = append(m.b, make([]byte, over)...)
	}
	return copy(m.b[off:], p), nil
}

func (m *memExtent) Truncate(n int64) error {
	if n <= int64(len(m.b)) {
		m.b = m.b[:n]
		return nil
	}
	m.b = append(m.b, make([]byte, n-int64(len(m.b)))...)
	return nil
}

func (m *memExtent) Sync() error { return nil }

// cowdScript is a history of a COWD extent: how it was made, and what a guest
// wrote to it. It is read off arbitrary bytes.
type cowdScript struct {
	grain, sectors int
	root           bool   // no parent
	base           []byte // what is below the extent
	ops            []cowdOp
}

// cowdOp is a write of n sectors, or one of what a writer does between writes.
type cowdOp struct {
	what  cowdVerb
	at, n int
	fill  byte
}

type cowdVerb byte

const (
	cowdWrite cowdVerb = iota
	cowdZero
	cowdFlush
	cowdReopen
	cowdCrash // the writer goes away without Close
	cowdVerbs
)

const (
	cowdScriptHead = 4
	cowdOpBytes    = 6
	cowdMostOps    = 32
	cowdMostSector = 9000 // three grain tables of one-sector grains
)

// parseCOWDScript makes a script of any bytes: a head of four (grain, root,
// capacity), then six for each step (verb and order of length, fill, place, length).
func parseCOWDScript(b []byte) cowdScript {
	head := make([]byte, cowdScriptHead)
	b = b[copy(head, b):]
	grains := []int{1, 1, 2, 3, 16, 128, 2048}
	s := cowdScript{
		grain: grains[int(head[0])%len(grains)], root: head[1]&1 != 0,
		sectors: 1 + int(binary.LittleEndian.Uint16(head[2:]))%cowdMostSector,
	}
	s.base = make([]byte, s.sectors*disk.SectorSize)
	if !s.root {
		fillSectors(s.base, 0x5b)
	}
	most := []int{3, 40, 600, cowdMostSector}
	for ; len(b) >= cowdOpBytes && len(s.ops) < cowdMostOps; b = b[cowdOpBytes:] {
		o := cowdOp{what: cowdVerb(b[0] % byte(cowdVerbs)), fill: b[1] | 1}
		o.at = int(binary.LittleEndian.Uint16(b[2:])) % s.sectors
		o.n = 1 + int(binary.LittleEndian.Uint16(b[4:]))%min(s.sectors-o.at, most[b[0]>>6])
		s.ops = append(s.ops, o)
	}
	return s
}

// fillSectors fills each sector with a byte of its own, none of them zero.
func fillSectors(b []byte, first byte) {
	for i := 0; i < len(b); i += disk.SectorSize {
		sector := b[i : i+disk.SectorSize]
		sector[0] = first + 2*byte(i/disk.SectorSize) | 1
		for n := 1; n < len(sector); n *= 2 {
			copy(sector[n:], sector[:n])
		}
	}
}

// play has our writer do the script, and returns the file, the content that the
// disk has to have, and which grains were written to.
func (s *cowdScript) play(tb testing.TB) (f *memExtent, model []byte, touched []bool) {
	tb.Helper()
	f = &memExtent{}
	spec := COWDSpec{SizeBytes: int64(s.sectors) * disk.SectorSize, GrainSectors: int64(s.grain)}
	if s.root {
		spec.Geometry = Geometry{Cylinders: 12, Heads: 64, Sectors: 32}
	}
	if _, err := CreateCOWD(f, spec); err != nil {
		tb.Fatal(err)
	}
	model = slices.Clone(s.base)
	durable := slices.Clone(model) // what a reader sees after a crash, at least where nothing was written since
	touched = make([]bool, (s.sectors+s.grain-1)/s.grain)
	u := s.open(tb, f)
	for _, o := range s.ops {
		switch o.what {
		case cowdWrite, cowdZero:
			p := make([]byte, o.n*disk.SectorSize)
			if o.what == cowdWrite {
				fillSectors(p, o.fill)
			}
			if _, err := u.WriteAt(p, int64(o.at)*disk.SectorSize); err != nil {
				tb.Fatal(err)
			}
			copy(model[o.at*disk.SectorSize:], p)
			for g := o.at / s.grain; g <= (o.at+o.n-1)/s.grain; g++ {
				touched[g] = true
			}
		case cowdFlush:
			if err := u.Flush(); err != nil {
				tb.Fatal(err)
			}
			durable = slices.Clone(model)
		case cowdReopen:
			if err := u.Close(); err != nil {
				tb.Fatal(err)
			}
			durable = slices.Clone(model)
			u = s.open(tb, f)
		case cowdCrash:
			// All that was written is in the file, so each sector is as before or as written.
			got := s.read(tb, f)
			for i := 0; i < len(got); i += disk.SectorSize {
				x := got[i : i+disk.SectorSize]
				if !bytes.Equal(x, durable[i:i+disk.SectorSize]) && !bytes.Equal(x, model[i:i+disk.SectorSize]) {
					tb.Fatalf("without Close sector %d is neither as before nor as written", i/disk.SectorSize)
				}
			}
			model, durable = got, slices.Clone(got)
			u = s.open(tb, f)
		}
	}
	if err := u.Close(); err != nil {
		tb.Fatal(err)
	}
	return f, model, touched
}

func (s *cowdScript) open(tb testing.TB, f *memExtent) *Updater {
	tb.Helper()
	spec := UpdateSpec{Name: "fuzz", FileBytes: int64(len(f.b))}
	if !s.root {
		spec.Fill = bytes.NewReader(s.base)
	}
	u, err := OpenUpdate(tb.Context(), f, spec)
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

// read puts the content together from runs: what is stored, over what is below.
func (s *cowdScript) read(tb testing.TB, f *memExtent) []byte {
	tb.Helper()
	spec := extentSpec{hole: disk.Parent}
	if s.root {
		spec.hole = disk.Zero
	}
	g, _, err := openCOWD(fuzzSource(f.b), newShared(func(string) {}), spec)
	if err != nil {
		tb.Fatal(err)
	}
	if err := g.check(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	out := slices.Clone(s.base)
	for r, err := range g.Runs(0, g.Size()) {
		if err != nil {
			tb.Fatal(err)
		}
		switch r.Kind {
		case disk.Data:
			if err := disk.ReadFull(g, out[r.Offset:r.End()], r.Offset); err != nil {
				tb.Fatal(err)
			}
		case disk.Zero:
			clear(out[r.Offset:r.End()])
		}
	}
	return out
}

// cowdScripts are where fuzzing and the comparison with QEMU begin.
func cowdScripts() [][]byte {
	op := func(what cowdVerb, fill byte, at, n uint16) []byte {
		b := []byte{byte(what) + 3*byte(cowdVerbs)*13, fill, 0, 0, 0, 0} // the longest order: 195 to 199
		binary.LittleEndian.PutUint16(b[2:], at)
		binary.LittleEndian.PutUint16(b[4:], n-1)
		return b
	}
	var all [][]byte
	for grain := range byte(7) {
		for root := range byte(2) {
			all = append(all, slices.Concat(
				[]byte{grain, root, 0xa0, 0x1f}, // 8097 sectors
				op(cowdWrite, 10, 5, 300), op(cowdZero, 0, 100, 4100), op(cowdFlush, 0, 0, 1),
				op(cowdWrite, 90, 4090, 12), op(cowdReopen, 0, 0, 1), op(cowdWrite, 30, 8000, 97),
				op(cowdCrash, 0, 0, 1), op(cowdZero, 0, 0, 1),
			))
		}
	}
	return all
}

// FuzzCOWDUpdate compares what the reader makes of a file by the writer with a
// model, and the grains that are stored with those that were written to.
func FuzzCOWDUpdate(f *testing.F) {
	for _, b := range cowdScripts() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := parseCOWDScript(b)
		file, model, touched := s.play(t)
		sameBytes(t, "our reader", s.read(t, file), model)
		plain, stored, err := plainCOWD(file.b, s.base)
		if err != nil {
			t.Fatal(err)
		}
		sameBytes(t, "the plain reader", plain, model)
		for g := range stored {
			if stored[g] && !touched[g] {
				t.Fatalf("grain %d is stored and was never written to", g)
			}
		}
		state, err := ReadExtentState(file)
		if err != nil || state.Dirty() {
			t.Fatalf("after Close the state is %+v, %v", state, err)
		}
		free := int64(binary.LittleEndian.Uint32(file.b[cowdFreeSector:]))
		if free*disk.SectorSize >= int64(len(file.b)) {
			t.Fatalf("the free sector %d is not inside the %d bytes", free, len(file.b))
		}
	})
}

// plainCOWD reads a COWD file of version 1 as the technical note describes it,
// grain by grain, over what is below: no caches, no runs, no checks but those
// without which it would fail.
func plainCOWD(b, below []byte) (out []byte, stored []bool, err error) {
	out = slices.Clone(below)
	word := func(at int64) (int64, error) {
		if at < 0 || at+4 > int64(len(b)) {
			return 0, fmt.Errorf("word at %d: %w", at, io.ErrUnexpectedEOF)
		}
		return int64(binary.LittleEndian.Uint32(b[at:])), nil
	}
	if len(b) < cowdHeaderSize {
		return nil, nil, io.ErrUnexpectedEOF
	}
	sectors, _ := word(12)
	grain, _ := word(16)
	gd, _ := word(20)
	entries := int64(4096)
	if v, _ := word(4); v == 3 {
		entries = 512
	}
	for first := int64(0); first < sectors; first += grain {
		i := first / grain
		gde, err := word(gd*512 + i/entries*4)
		if err != nil {
			return nil, nil, err
		}
		gte := int64(0)
		if gde != 0 {
			if gte, err = word(gde*512 + i%entries*4); err != nil {
				return nil, nil, err
			}
		}
		stored = append(stored, gte > 1)
		n := min(grain, sectors-first) * 512
		part := out[first*512 : first*512+n]
		switch {
		case gte == 1:
			clear(part)
		case gte > 1:
			if gte*512+n > int64(len(b)) {
				return nil, nil, fmt.Errorf("grain %d: %w", i, io.ErrUnexpectedEOF)
			}
			copy(part, b[gte*512:])
		}
	}
	return out, stored, nil
}

// agreeCOWD compares the ways to read an extent of any bytes. What Check finds
// right can be read, by runs and at once, and is what the plain reader reads;
// what cannot be read Check does not find right.
func agreeCOWD(t *testing.T, b []byte) {
	t.Helper()
	const most = 16 << 20 // of disk
	g, _, err := openCOWD(fuzzSource(b), newShared(func(string) {}), fuzzSpec)
	if err != nil || g.Size() > most {
		return
	}
	checked := g.check(t.Context())
	whole := make([]byte, g.Size())
	readErr := disk.ReadFull(g, whole, 0)
	byRuns, runsErr := make([]byte, g.Size()), error(nil)
	for r, err := range g.Runs(0, g.Size()) {
		if err == nil && r.Kind == disk.Data {
			err = disk.ReadFull(g, byRuns[r.Offset:r.End()], r.Offset)
		}
		if err != nil {
			runsErr = err
			break
		}
	}
	if (readErr == nil) != (runsErr == nil) {
		t.Fatalf("reading at once gives %v, by runs %v", readErr, runsErr)
	}
	if checked == nil && readErr != nil {
		t.Fatalf("the check found nothing, reading gives %v", readErr)
	}
	if readErr != nil {
		formatError(t, readErr)
		return
	}
	sameBytes(t, "by runs", byRuns, whole)
	plain, _, err := plainCOWD(b, make([]byte, g.Size()))
	if err != nil {
		t.Fatalf("the plain reader: %v", err)
	}
	sameBytes(t, "the plain reader", plain, whole)
}

// TestCOWDAgainstQEMU has QEMU read what the writer made of random scripts.
func TestCOWDAgainstQEMU(t *testing.T) {
	testenv.Long(t)
	scripts := cowdScripts()
	rnd := rand.New(rand.NewPCG(3, 1))
	for range 40 {
		b := make([]byte, cowdScriptHead+cowdOpBytes*(1+rnd.IntN(12)))
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		scripts = append(scripts, b)
	}
	for i, b := range scripts {
		s := parseCOWDScript(b)
		file, model, _ := s.play(t)
		dir := t.TempDir()
		// The base of a disk without a parent is zeros too.
		top := writeChain(t, dir, s.base, "top-delta.vmdk")
		if err := os.WriteFile(filepath.Join(dir, "top-delta.vmdk"), file.b, 0o600); err != nil {
			t.Fatal(err)
		}
		what := fmt.Sprintf("script %d (grain %d, %d sectors, root %v)", i, s.grain, s.sectors, s.root)
		sameBytes(t, what+": qemu-img", qemuRaw(t, top), model)
		if !s.root { // which our reader would warn of
			sameBytes(t, what+": our reader", readDisk(t, top), model)
		}
	}
}
