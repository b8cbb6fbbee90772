// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"errors"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

// useExtent does with an extent of hostile bytes what users do: it looks at
// runs and reads. The runs have to be in order, what is read the same however
// it is read, and errors have to say where.
func useExtent(t *testing.T, g *grainExtent, err error) {
	t.Helper()
	if err != nil {
		formatError(t, err)
		return
	}
	if g.Size() <= 0 || g.Size() > disk.MaxSize {
		t.Fatalf("%d bytes", g.Size())
	}
	at, count := int64(0), 0
	whole, small := make([]byte, 128<<10), make([]byte, 128<<10)
	for r, err := range g.Runs(0, g.Size()) {
		if err != nil {
			formatError(t, err)
			return
		}
		if r.Offset != at || r.Length <= 0 {
			t.Fatalf("%+v at %d", r, at)
		}
		at = r.End()
		if count++; count > 64 {
			break
		}
		n := min(r.Length, int64(len(whole)))
		wholeErr := disk.ReadFull(g, whole[:n], r.Offset)
		var smallErr error
		for i := int64(0); i < n && smallErr == nil; i += 4096 {
			smallErr = disk.ReadFull(g, small[i:min(i+4096, n)], r.Offset+i)
		}
		if (wholeErr == nil) != (smallErr == nil) {
			t.Fatalf("reading at once gives %v, in steps %v", wholeErr, smallErr)
		}
		if wholeErr != nil {
			formatError(t, wholeErr)
			continue
		}
		if !bytes.Equal(whole[:n], small[:n]) {
			t.Fatal("reading at once and in steps differ")
		}
		if r.Kind != disk.Data && !disk.IsZero(whole[:n]) {
			t.Fatalf("%+v is not zero", r)
		}
	}
	if at != g.Size() && count <= 64 {
		t.Fatalf("the runs end at %d of %d", at, g.Size())
	}
	if err := g.check(t.Context()); err != nil {
		formatError(t, err)
	}
}

func formatError(t *testing.T, err error) {
	t.Helper()
	var fe *disk.FormatError
	if !errors.As(err, &fe) || fe.Err == nil {
		t.Fatalf("no format error: %v", err)
	}
}

func fuzzSource(b []byte) *source {
	return &source{r: bytes.NewReader(b), sizeBytes: int64(len(b)), path: "fuzz"}
}

var fuzzSpec = extentSpec{hole: disk.Parent}

func FuzzSparse(f *testing.F) {
	content := patchwork(300<<10, 1)
	for _, redundant := range []bool{false, true} {
		f.Add(genHosted(content, []fate{stored, zeroed, absent, stored, stored}, 128, 2, redundant, "version=1\n"))
	}
	f.Add(genHosted(content[:60<<10], randomFates(8, true, 5), 16, 2, true, ""))
	addCorpusSeeds(f, "vmdk/tools")
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := openHosted(fuzzSource(b), newShared(func(string) {}), fuzzSpec)
		useExtent(t, g, err)
	})
}

func FuzzStreamOptimized(f *testing.F) {
	content := patchwork(300<<10, 1)
	for layout := range layoutCount {
		f.Add(genStream(content, []fate{stored, absent, absent, stored, stored}, layout, "version=1\n"))
	}
	addCorpusSeeds(f, "vmdk/native")
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 12 { // look at streams only
			put := bytes.Clone(b)
			put[10] |= 3
			b = put
		}
		g, err := openHosted(fuzzSource(b), newShared(func(string) {}), fuzzSpec)
		useExtent(t, g, err)
	})
}

func FuzzCOWD(f *testing.F) {
	content := patchwork(20<<10, 1)
	f.Add(genCOWD(content, randomFates(40, true, 1), 1, 1, true))
	f.Add(genCOWD(content, randomFates(40, true, 1), 1, 3, false))
	f.Add(genCOWD(content, randomFates(3, true, 1), 16, 1, false))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, _, err := openCOWD(fuzzSource(b), newShared(func(string) {}), fuzzSpec)
		useExtent(t, g, err)
		agreeCOWD(t, b)
	})
}

func FuzzSESparse(f *testing.F) {
	content := patchwork(20<<10, 1)
	small := genSE(content, []fate{stored, absent, zeroed, zeroed, stored})
	// Without the thousands of unused grains in front: number 4090 becomes 0.
	const gts = 5 * 512
	small = append(small[:gts+64*512:gts+64*512], small[gts+64*512+4090*4096:]...)
	put64(small, gts, 3<<60)
	put64(small, gts+4*8, 3<<60|1<<48)
	put64(small, 200, 4*8)
	f.Add(small)
	f.Add(small[:2048])
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := openSESparse(fuzzSource(b), newShared(func(string) {}), fuzzSpec)
		useExtent(t, g, err)
	})
}
