// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

// damageVariable is how many times bytes of a volume are changed at random; 100 if it
// is not set.
const damageVariable = "VMSTREAM_TEST_VMFS_DAMAGE"

// isDamage reports if an error is one that a damaged volume may give.
func isDamage(err error) bool {
	return errors.Is(err, disk.ErrCorrupt) || errors.Is(err, disk.ErrTruncated) || errors.Is(err, disk.ErrUnsupported) ||
		errors.Is(err, disk.ErrMismatch) || errors.Is(err, ErrNoVolume) || errors.Is(err, ErrMissingDevice) ||
		errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) || errors.Is(err, ErrSymlink)
}

// survey reads all that a volume says of its files, and their content if it is short.
// It returns the digest of each, how many errors there were, and how many problems Check
// finds. It fails the test if an error does not tell of damage.
func survey(tb testing.TB, f *FS) (digests map[string][32]byte, failures, problems int) {
	digests = map[string][32]byte{}
	sum, err := f.Check(tb.Context(), func(Problem) {})
	if err != nil {
		tb.Fatal(err)
	}
	fail := func(name string, err error) {
		if failures++; !isDamage(err) {
			tb.Fatalf("%q: not told as damage: %v", name, err)
		}
	}
	n := 0
	_ = fs.WalkDir(f, ".", func(name string, d fs.DirEntry, err error) error {
		if n++; n > 10_000 {
			tb.Fatal("the walk does not end")
		}
		if err != nil {
			fail(name, err)
			return nil
		}
		if d.Type() == fs.ModeSymlink {
			if target, err := f.ReadLink(name); err != nil {
				fail(name, err)
			} else {
				digests[name] = sha256.Sum256([]byte(target))
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		file, err := f.OpenFile(name)
		if err != nil {
			fail(name, err)
			return nil
		}
		pieces := 0
		for _, err := range file.Extents(0, file.Size()) {
			if pieces++; err != nil {
				fail(name, err)
				return nil
			}
			if pieces > 1<<20 {
				tb.Fatal("the extents do not end")
			}
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, io.NewSectionReader(file, 0, min(file.Size(), 1<<18))); err != nil {
			fail(name, err)
			return nil
		}
		digests[name] = [32]byte(sum.Sum(nil))
		return nil
	})
	return digests, failures, sum.Problems
}

// TestRandomDamage changes bytes at random, most of them in what describes the files.
func TestRandomDamage(t *testing.T) {
	rounds := 100
	if s := os.Getenv(damageVariable); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a-v3-plain", "a-v5-plain", "a-v6-gpt"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := loadExpected(t, name)
			d := devicesOf(t, x)[0]
			whole, err := Open([]Device{d}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			want, failures, problems := survey(t, whole)
			if failures > 0 || problems > 0 {
				t.Fatal("the volume is damaged")
			}
			m := d.R.(*image)
			// Whatever has something, less what is much: the data of files.
			var places []int64
			for at := range m.chunks {
				if at*chunkBytes < x.Devices[0].PartitionOffset+0x1100000+(24<<20) {
					places = append(places, at)
				}
			}
			slices.Sort(places)
			random := rand.New(rand.NewPCG(1, uint64(len(name))))
			var refused, told, silent, same, checked int
			for range rounds {
				b := make([]byte, 1+random.IntN(8))
				for i := range b {
					b[i] = byte(random.Uint32() >> 8)
					if random.IntN(3) == 0 {
						b[i] = []byte{0, 0xff}[random.IntN(2)]
					}
				}
				at := somewhere(random, m, places)
				if random.IntN(20) == 0 { // cut off
					d.SizeBytes = at
				} else {
					d.SizeBytes = m.size
				}
				d.R = m.patched(b, at)
				f, err := Open([]Device{d}, Options{})
				if err != nil {
					if refused++; !isDamage(err) {
						t.Fatalf("%x at %d: not told as damage: %v", b, at, err)
					}
					continue
				}
				got, failures, problems := survey(t, f)
				if problems > 0 {
					checked++
				}
				switch {
				case failures > 0:
					told++
				case sameContent(got, want):
					same++
				default: // of content and addresses there are no checksums
					silent++
				}
			}
			t.Logf("of %d changes %d were refused, %d told, %d without effect; %d changed what is read, which no reader can tell; Check finds something wrong with %d of those that were not refused", rounds, refused, told, same, silent, checked)
		})
	}
}

// somewhere is mostly a place where there is something.
func somewhere(random *rand.Rand, m *image, places []int64) int64 {
	chunk := places[random.IntN(len(places))]
	at := random.IntN(chunkBytes)
	if random.IntN(8) > 0 {
		for k := range chunkBytes {
			if i := (at + k) % chunkBytes; m.chunks[chunk][i] != 0 {
				return chunk*chunkBytes + int64(i)
			}
		}
	}
	return chunk*chunkBytes + int64(at)
}

func sameContent(a, b map[string][32]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for name, sum := range a {
		if b[name] != sum {
			return false
		}
	}
	return true
}

// FuzzVolume changes a small volume anywhere.
func FuzzVolume(f *testing.F) {
	m := unpackReal(f)
	for _, at := range []int64{0x100000, 0x180600, 0x1300000, 0x1300000 + 0xA1, 0x1518000, 0x157A200, 0x157A244, 0x157A400} {
		f.Add(at, []byte{0xff})
		f.Add(at, []byte{0, 0, 0, 0})
	}
	f.Fuzz(func(t *testing.T, at int64, b []byte) {
		if len(b) == 0 || len(b) > 4096 || at < 0 || at > m.size-int64(len(b)) {
			t.Skip()
		}
		v, err := Open([]Device{{Name: "fuzz", R: m.patched(b, at), SizeBytes: m.size}}, Options{})
		if err != nil {
			if !isDamage(err) {
				t.Fatalf("not told as damage: %v", err)
			}
			return
		}
		survey(t, v)
		if _, err := v.Heartbeats(); err != nil && !isDamage(err) {
			t.Fatalf("not told as damage: %v", err)
		}
	})
}
