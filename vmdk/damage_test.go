// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

// small disks that the damage is done to
const damageBytes = 3 * mib

func damageHosted(t testing.TB) (image, content []byte) {
	t.Helper()
	content = patchwork(damageBytes, 71)
	f := randomFates(damageBytes/65536, false, 71)
	text := descriptorText(TypeMonolithicSparse, 1, NoParent, "", fmt.Sprintf(`RW %d SPARSE "x.vmdk"`, damageBytes/512))
	return genHosted(content, f, 128, 1, true, text), overlayModel(make([]byte, damageBytes), content, f, 65536)
}

func damageStream(t testing.TB, layout int) (image, content []byte) {
	t.Helper()
	content = patchwork(damageBytes, 72)
	f := randomFates(damageBytes/65536, false, 72)
	text := descriptorText(TypeStreamOptimized, 1, NoParent, "", fmt.Sprintf(`RW %d SPARSE "x.vmdk"`, damageBytes/512))
	return genStream(content, f, layout, text), overlayModel(make([]byte, damageBytes), content, f, 65536)
}

// readAll opens and reads a disk; either may fail, but what is read without
// an error has to be what was stored. It returns the error.
func readOrRefuse(t *testing.T, path string, want []byte) error {
	t.Helper()
	d, err := Open(path, Options{Warn: func(string) {}})
	if err != nil {
		return err
	}
	defer d.Close()
	got := make([]byte, d.Size())
	if err := disk.ReadFull(d, got, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		t.Errorf("wrong content without an error, from byte %d on", firstDifference(got, want))
	}
	for _, err := range d.Runs(0, d.Size()) {
		if err != nil {
			t.Errorf("Runs refuses what ReadAt reads: %v", err)
		}
	}
	return nil
}

// TestDamagedHosted has the rows of the table of damages that other readers
// partly take for good: here each is refused, or read right.
func TestDamagedHosted(t *testing.T) {
	image, want := damageHosted(t)
	le := binary.LittleEndian
	rgd, gd := le.Uint64(image[48:])*512, le.Uint64(image[56:])*512
	gt, rgt := uint64(le.Uint32(image[gd:]))*512, uint64(le.Uint32(image[rgd:]))*512
	last := le.Uint32(image[gt:]) // of the first grain, which lies last in the file
	end := uint32(len(image) / 512)
	both := func(v uint32) func([]byte) []byte { // of the first grain
		return func(b []byte) []byte { put32(b, int(gt), v); put32(b, int(rgt), v); return b }
	}
	one := func(at uint64, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { put32(b, int(at), v); return b }
	}
	long := func(at int, v uint64) func([]byte) []byte {
		return func(b []byte) []byte { put64(b, at, v); return b }
	}
	second := le.Uint32(image[gt+uint64(4*(damageBytes/65536-1)):])
	for _, tt := range []struct {
		name   string
		change func([]byte) []byte
		want   error // nil: read right
	}{
		{"nothing", func(b []byte) []byte { return b }, nil},
		{"newline test", func(b []byte) []byte { b[75] = '\n'; return b }, disk.ErrCorrupt},
		{"version 4", one(4, 4), disk.ErrUnsupported},
		{"version 0", one(4, 0), disk.ErrUnsupported},
		{"unknown compatible flag", one(8, 0x103), nil},
		{"unknown incompatible flag", one(8, 0x40003), disk.ErrUnsupported},
		{"compressed flag alone", one(8, 0x10003), disk.ErrUnsupported},
		{"markers without compression", one(8, 0x20003), disk.ErrUnsupported},
		{"compression method", func(b []byte) []byte { b[77] = 1; return b }, disk.ErrCorrupt},
		{"unclean", func(b []byte) []byte { b[72] = 1; return b }, nil},
		{"grainSize 100", long(20, 100), disk.ErrCorrupt},
		{"grainSize 0", long(20, 0), disk.ErrCorrupt},
		{"grainSize 2^64-1", long(20, ^uint64(0)), disk.ErrCorrupt},
		{"grainSize 2^63", long(20, 1<<63), disk.ErrCorrupt},
		{"GTEs 0", one(44, 0), disk.ErrCorrupt},
		{"GTEs 1", one(44, 1), disk.ErrCorrupt},
		{"GTEs 506", one(44, 506), disk.ErrCorrupt},
		{"GTEs 1024", one(44, 1024), disk.ErrCorrupt},
		{"GTEs 2^32-1", one(44, 1<<32-1), disk.ErrCorrupt},
		{"GDE beyond EOF, first copy", one(gd, end+5), nil},
		{"GDE beyond EOF, both", func(b []byte) []byte { put32(b, int(gd), end); put32(b, int(rgd), end); return b }, disk.ErrTruncated},
		{"GDE 2^32-1, both", func(b []byte) []byte { put32(b, int(gd), 1<<32-1); put32(b, int(rgd), 1<<32-1); return b }, disk.ErrTruncated},
		{"GDE in the header", one(gd, 0), disk.ErrMismatch},
		{"GDE 0, redundant copy", one(rgd, 0), disk.ErrMismatch},
		{"GDE names the other copy", one(gd, uint32(rgt/512)), nil},
		{"GDE names the directory, both", func(b []byte) []byte {
			put32(b, int(gd), uint32(gd/512))
			put32(b, int(rgd), uint32(gd/512))
			return b
		}, disk.ErrCorrupt},
		{"GTE beyond EOF, first copy", one(gt, end+7), nil},
		{"GTE beyond EOF, redundant copy", one(rgt, end+7), nil},
		{"GTE beyond EOF, both", both(end), disk.ErrTruncated},
		{"GTE at EOF - 1, both", both(end - 1), disk.ErrTruncated},
		{"GTE 2^32-1, both", both(1<<32 - 1), disk.ErrTruncated},
		{"GTE unaligned, first copy", one(gt, last-1), disk.ErrMismatch},
		{"GTE unaligned, both", both(last - 1), disk.ErrCorrupt},
		{"GTE duplicate, both", both(second), disk.ErrCorrupt},
		{"GTE 1 without the flag, both", both(1), disk.ErrCorrupt},
		{"GTE in the tables, both", both(uint32(gt / 512)), disk.ErrCorrupt},
		{"GTE 0 in one copy", one(gt, 0), disk.ErrMismatch},
		{"GTE 0 in the redundant copy", one(rgt, 0), disk.ErrMismatch},
		{"last 64 KiB cut off", func(b []byte) []byte { return b[:len(b)-65536] }, disk.ErrTruncated},
		{"last sector cut off", func(b []byte) []byte { return b[:len(b)-512] }, disk.ErrTruncated},
		{"last byte cut off", func(b []byte) []byte { return b[:len(b)-1] }, disk.ErrTruncated},
		{"header only", func(b []byte) []byte { return b[:512] }, disk.ErrTruncated},
		{"half a header", func(b []byte) []byte { return b[:100] }, disk.ErrTruncated},
		{"capacity 2^40", long(12, 1<<40), disk.ErrUnsupported},
		{"capacity 2^61", long(12, 1<<61), disk.ErrUnsupported},
		{"capacity 2^32", long(12, 1<<32), disk.ErrMismatch},
		{"capacity 0", long(12, 0), disk.ErrCorrupt},
		{"capacity one grain less", long(12, damageBytes/512-128), disk.ErrMismatch},
		{"gdOffset 0", long(56, 0), nil},
		{"gdOffset 1", long(56, 1), nil},
		{"gdOffset of zeros", long(56, 120), disk.ErrMismatch},
		{"gdOffset 2^63", long(56, 1<<63), nil},
		{"gdOffset of a footer", long(56, ^uint64(0)), disk.ErrCorrupt},
		{"rgdOffset 0", long(48, 0), nil},
		{"rgdOffset = gdOffset", long(48, gd/512), nil},
		{"both directories beyond EOF", func(b []byte) []byte { put64(b, 48, uint64(end)); put64(b, 56, uint64(end)+9); return b }, disk.ErrTruncated},
		{"overHead 2^64-1", long(64, ^uint64(0)), disk.ErrCorrupt},
		{"descriptor at 2^60", long(28, 1<<60), disk.ErrCorrupt},
		{"descriptor of 2^60", long(36, 1<<60), disk.ErrCorrupt},
		{"descriptor of 2^50", long(36, 1<<50), disk.ErrTruncated},
		{"descriptor over one copy", long(36, 24), nil},
		{"descriptor over both copies", long(36, 40), disk.ErrCorrupt},
		{"no descriptor", long(28, 0), disk.ErrUnsupported},
		{"lower case magic", func(b []byte) []byte { copy(b, "kdmv"); return b }, disk.ErrUnsupported},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := writeFile(t, filepath.Join(t.TempDir(), "x.vmdk"), tt.change(bytes.Clone(image)))
			err := readOrRefuse(t, path, want)
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			var fe *disk.FormatError
			if err != nil && (!errors.As(err, &fe) || fe.File != path || fe.Field == "" && fe.Detail == "") {
				t.Errorf("the error does not tell where: %v", err)
			}
		})
	}
}

// TestDamagedEverywhere flips bits all over the metadata of disks that have
// two copies of it, or checksums, and cuts them: nothing may change content
// without an error. One file is written to in place, since there are many.
func TestDamagedEverywhere(t *testing.T) {
	images := map[string]func(testing.TB) (image, content []byte){"hosted": damageHosted}
	for layout := range layoutCount {
		images[fmt.Sprint("stream layout ", layout)] = func(tb testing.TB) (image, content []byte) { return damageStream(tb, layout) }
	}
	for name, gen := range images {
		t.Run(name, func(t *testing.T) {
			image, want := gen(t)
			path := filepath.Join(t.TempDir(), "x.vmdk")
			refused := 0
			try := func(b []byte) {
				t.Helper()
				if readOrRefuse(t, writeFile(t, path, b), want) != nil {
					refused++
				}
				if t.Failed() {
					t.FailNow()
				}
			}
			// The header, without the descriptor; then the tables and, in a
			// stream, markers.
			end := 90 << 10
			if name == "hosted" { // data of a plain disk has no checksum
				end = 128 * 512
			}
			for at := 0; at < end; at += 1 + at/80 {
				if at >= 80 && at < 21*512 {
					continue
				}
				b := bytes.Clone(image)
				b[at] ^= 1 << (at % 8)
				try(b)
			}
			for at := len(image) - 4*512; at < len(image); at += 61 {
				b := bytes.Clone(image)
				b[at] ^= 0x55
				if name != "hosted" {
					try(b)
				}
			}
			for at := len(image) - 1; at > 0; at -= 1 + len(image)/40 {
				try(image[:at])
			}
			if refused < 50 {
				t.Errorf("only %d were refused", refused)
			}
		})
	}
}

func TestDamagedStream(t *testing.T) {
	for layout := range layoutCount {
		image, want := damageStream(t, layout)
		first := 128 * 512
		size := int(binary.LittleEndian.Uint32(image[first+8:]))
		second := first + (12+size+511)/512*512
		bomb := func(b []byte, n int) []byte {
			z := compressed(make([]byte, n))
			if len(z) > second-first-12 {
				t.Fatal("the bomb does not fit")
			}
			put32(b, first+8, uint32(len(z)))
			copy(b[first+12:], z)
			return b
		}
		for _, tt := range []struct {
			name   string
			change func([]byte) []byte
			want   error
		}{
			{"LBA of another grain", func(b []byte) []byte { put64(b, first, 128); return b }, disk.ErrCorrupt},
			{"LBA 2^63", func(b []byte) []byte { put64(b, first, 1<<63); return b }, disk.ErrCorrupt},
			{"size 2^32-1", func(b []byte) []byte { put32(b, first+8, 1<<32-1); return b }, disk.ErrCorrupt},
			{"size one less", func(b []byte) []byte { put32(b, first+8, uint32(size-1)); return b }, disk.ErrCorrupt},
			{"size one more", func(b []byte) []byte { put32(b, first+8, uint32(size+1)); return b }, disk.ErrCorrupt},
			{"size 0", func(b []byte) []byte { put32(b, first+8, 0); return b }, disk.ErrCorrupt},
			{"checksum", func(b []byte) []byte { b[first+12+size-1] ^= 1; return b }, disk.ErrCorrupt},
			{"data", func(b []byte) []byte { b[first+12+size/2] ^= 1; return b }, disk.ErrCorrupt},
			{"16 MiB in a grain", func(b []byte) []byte { return bomb(b, 16<<20) }, disk.ErrCorrupt},
			{"half a grain", func(b []byte) []byte { return bomb(b, 32<<10) }, disk.ErrCorrupt},
			{"a byte too many", func(b []byte) []byte { return bomb(b, 64<<10+1) }, disk.ErrCorrupt},
			{"EOS between grains", func(b []byte) []byte { clear(b[second : second+512]); return b }, disk.ErrCorrupt},
			{"huge table marker", func(b []byte) []byte { copy(b[second:], markerOf(1<<40, 0, 1)); return b }, disk.ErrCorrupt},
			{"unknown marker", func(b []byte) []byte { copy(b[second:], markerOf(1, 0, 9)); return b }, disk.ErrCorrupt},
		} {
			t.Run(fmt.Sprint("layout ", layout, "/", tt.name), func(t *testing.T) {
				path := writeFile(t, filepath.Join(t.TempDir(), "x.vmdk"), tt.change(bytes.Clone(image)))
				if err := readOrRefuse(t, path, want); !errors.Is(err, tt.want) {
					t.Errorf("%v, want %v", err, tt.want)
				}
			})
		}
	}
	// A stream that was cut must not be taken for an empty or shorter disk,
	// and neither must one whose missing end was filled with zeros.
	image, want := damageStream(t, layoutFooter)
	for _, cut := range []int{3 * 512, 4 * 512, 5 * 512, 6 * 512, 9 * 512, len(image) / 2} {
		for _, fill := range []int{0, 512, 100 << 10} {
			b := append(bytes.Clone(image[:len(image)-cut]), make([]byte, fill)...)
			path := writeFile(t, filepath.Join(t.TempDir(), "x.vmdk"), b)
			err := readOrRefuse(t, path, want)
			// Up to the footer marker nothing is lost that the disk needs.
			if wantOK := cut <= 3*512; (err == nil) != wantOK {
				t.Errorf("%d bytes cut off, %d zeros instead: %v", cut, fill, err)
			}
		}
	}
}

func TestDamagedCOWD(t *testing.T) {
	const size = 5 * mib
	content := patchwork(size, 81)
	f := randomFates(size/512, false, 81)
	image := genCOWD(content, f, 1, 1, true)
	want := overlayModel(make([]byte, size), content, f, 512)
	le := binary.LittleEndian
	gt := int(le.Uint32(image[2048:])) * 512
	end := uint32(len(image) / 512)
	one := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { put32(b, at, v); return b }
	}
	for _, tt := range []struct {
		name   string
		change func([]byte) []byte
		want   error
	}{
		{"nothing", func(b []byte) []byte { return b }, nil},
		{"version 2", one(4, 2), disk.ErrUnsupported},
		{"flags", one(8, 0x1b), nil},
		{"numSectors 0", one(12, 0), disk.ErrCorrupt},
		{"numSectors 2^32-1", one(12, 1<<32-1), disk.ErrCorrupt},
		{"grainSize 0", one(16, 0), disk.ErrCorrupt},
		{"grainSize 2", one(16, 2), disk.ErrCorrupt},
		{"grainSize 2^32-1", one(16, 1<<32-1), disk.ErrCorrupt},
		{"gdOffset in the header", one(20, 3), disk.ErrCorrupt},
		{"gdOffset beyond EOF", one(20, 1<<32-1), disk.ErrTruncated},
		{"numGDEntries 2^32-1", one(24, 1<<32-1), disk.ErrCorrupt},
		{"numGDEntries too small", one(24, 2), disk.ErrCorrupt},
		{"numGDEntries one more", one(24, 4), nil},
		{"numGDEntries one more, not 0", func(b []byte) []byte { put32(b, 24, 4); put32(b, 2048+12, 5); return b }, disk.ErrCorrupt},
		{"freeSector 0", one(28, 0), nil},
		{"unclean", one(1648, 1), nil},
		{"GDE 2^32-1", one(2048, 1<<32-1), disk.ErrTruncated},
		{"GDE at EOF - 31", one(2048, end-31), disk.ErrTruncated},
		{"GDE names the header", one(2048, 1), disk.ErrCorrupt},
		{"GDE names the directory", one(2048, 4), disk.ErrCorrupt},
		{"two GDEs name one table", func(b []byte) []byte { copy(b[2052:2056], b[2048:2052]); return b }, disk.ErrCorrupt},
		{"tables overlap", func(b []byte) []byte { put32(b, 2052, le.Uint32(b[2048:])+31); return b }, disk.ErrCorrupt},
		{"GTE beyond EOF", one(gt, end), disk.ErrTruncated},
		{"GTE names the header", one(gt, 2), disk.ErrCorrupt},
		{"GTE names the directory", one(gt, 4), disk.ErrCorrupt},
		{"GTE names a table", one(gt, uint32(gt/512)+31), disk.ErrCorrupt},
		{"GTE duplicate", func(b []byte) []byte {
			copy(b[gt:gt+4], b[gt+4095*4:])
			put32(b, gt+4095*4, le.Uint32(b[gt:]))
			return b
		}, nil},
		{"last sector cut off", func(b []byte) []byte { return b[:len(b)-512] }, disk.ErrTruncated},
		{"directory cleared", func(b []byte) []byte { clear(b[2048:2060]); return b }, disk.ErrCorrupt},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := tt.change(bytes.Clone(image))
			if tt.name == "GTE duplicate" {
				twice := firstStored(b, gt, 2)
				put32(b, gt+twice[1]*4, le.Uint32(b[gt+twice[0]*4:]))
				tt.want = disk.ErrCorrupt
			}
			path := writeFile(t, filepath.Join(t.TempDir(), "x.vmdk"), b)
			if err := readOrRefuse(t, path, want); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

// firstStored returns the indexes of the first n entries of a table that are not 0.
func firstStored(b []byte, table, n int) (list []int) {
	for i := 0; len(list) < n; i++ {
		if binary.LittleEndian.Uint32(b[table+i*4:]) != 0 {
			list = append(list, i)
		}
	}
	return list
}

func TestDamagedSESparse(t *testing.T) {
	const size = 40 * mib
	dir, base := chainDir(t, size)
	content := patchwork(size, 91)
	f := randomFates(size/4096, true, 91)
	image := genSE(content, f)
	want := overlayModel(base, content, f, 4096)
	path := writeFile(t, filepath.Join(dir, "s.vmdk"), []byte(descriptorText(TypeSESparse, 2, 1, "base.vmdk", fmt.Sprintf(`RW %d SESPARSE "s-sesparse.vmdk"`, size/512))))
	const gd, gts = 4 * 512, 5 * 512
	long := func(at int, v uint64) func([]byte) []byte {
		return func(b []byte) []byte { put64(b, at, v); return b }
	}
	last := gts + 2*32768 // table 2 is the first range's; its first grain is stored
	for _, tt := range []struct {
		name   string
		change func([]byte) []byte
		want   error
	}{
		{"nothing", func(b []byte) []byte { return b }, nil},
		{"magic", long(0, 0xcafebabd), disk.ErrCorrupt},
		{"version", long(8, 0x200000002), disk.ErrUnsupported},
		{"capacity 0", long(16, 0), disk.ErrCorrupt},
		{"capacity 2^60", long(16, 1<<60), disk.ErrUnsupported},
		{"capacity 2^36", long(16, 1<<36), disk.ErrCorrupt},
		{"capacity one sector less", long(16, size/512-1), disk.ErrMismatch},
		{"grain size 0", long(24, 0), disk.ErrUnsupported},
		{"table size 0", long(32, 0), disk.ErrUnsupported},
		{"flags", long(40, 1), disk.ErrUnsupported},
		{"reserved", long(72, 1), disk.ErrUnsupported},
		{"padding", long(504, 1), disk.ErrUnsupported},
		{"volatile header beyond EOF", long(80, 1<<40), disk.ErrTruncated},
		{"volatile header at 2^63", long(80, 1<<63), disk.ErrCorrupt},
		{"volatile magic", long(512, 1), disk.ErrCorrupt},
		{"journal", long(512+24, 1), disk.ErrUnsupported},
		{"directory size 0", long(136, 0), disk.ErrCorrupt},
		{"directory size 2^60", long(136, 1<<60), disk.ErrCorrupt},
		{"directory over the tables", long(136, 2), disk.ErrCorrupt},
		{"tables size 0", long(152, 0), disk.ErrCorrupt},
		{"tables at 2^63", long(144, 1<<63), disk.ErrCorrupt},
		{"grains over the tables", long(192, 6), disk.ErrCorrupt},
		{"GDE without its nibble", long(gd, 2), disk.ErrCorrupt},
		{"GDE with high bits", long(gd, 1<<60|1<<32|2), disk.ErrCorrupt},
		{"GDE of no table", long(gd, 1<<60|3), disk.ErrCorrupt},
		{"GDE used twice", long(gd, 1<<60|1), disk.ErrCorrupt},
		{"GTE nibble 4", long(last, 4<<60), disk.ErrCorrupt},
		{"GTE nibble 15", long(last, 15<<60), disk.ErrCorrupt},
		{"GTE unallocated with bits", long(last, 1), disk.ErrCorrupt},
		{"GTE of no grain", long(last, 3<<60|(1<<48-1)), disk.ErrCorrupt},
		{"last grain cut off", func(b []byte) []byte { return b[:len(b)-4096] }, disk.ErrTruncated},
		{"cut in the tables", func(b []byte) []byte { return b[:gts+100] }, disk.ErrTruncated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			writeFile(t, filepath.Join(dir, "s-sesparse.vmdk"), tt.change(bytes.Clone(image)))
			if err := readOrRefuse(t, path, want); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}
