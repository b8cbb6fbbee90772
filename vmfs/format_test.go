// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
)

// formatTest makes a volume in files, which are sparse.
func formatTest(tb testing.TB, o FormatOptions, sizes ...int64) []WriteDevice {
	tb.Helper()
	devices := imageFiles(tb, sizes...)
	if err := Format(tb.Context(), devices, o); err != nil {
		tb.Fatal(err)
	}
	return devices
}

func imageFiles(tb testing.TB, sizes ...int64) []WriteDevice {
	var devices []WriteDevice
	for i, size := range sizes {
		name := filepath.Join(tb.TempDir(), fmt.Sprintf("d%d.img", i))
		f, err := os.Create(name)
		if err == nil {
			err = f.Truncate(size)
		}
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { f.Close() })
		devices = append(devices, WriteDevice{Name: name, RW: f, SizeBytes: size})
	}
	return devices
}

// sound opens a volume and finds nothing wrong with it.
func sound(tb testing.TB, devices []WriteDevice) (*FS, Summary) {
	tb.Helper()
	f, err := Open(readers(devices), Options{})
	if err != nil {
		tb.Fatal(err)
	}
	problems, notes, sum := checkAll(tb, f)
	for _, p := range append(problems, notes...) {
		tb.Error(p)
	}
	return f, sum
}

// TestFormat makes volumes of all sizes of blocks and several devices.
func TestFormat(t *testing.T) {
	const pe, over = 256 << 20, 0x1100000
	tests := []struct {
		o     FormatOptions
		sizes []int64
		free  uint64
	}{
		{FormatOptions{Generation: VMFS3}, []int64{over + pe}, 181},
		{FormatOptions{Generation: VMFS3, BlockBytes: 2 << 20}, []int64{over + 2*pe}, 0},
		{FormatOptions{Generation: VMFS3, BlockBytes: 4 << 20}, []int64{over + 2*pe, over + pe + 12345*512}, 0},
		{FormatOptions{Generation: VMFS3, BlockBytes: 8 << 20}, []int64{over + pe, over + pe, over + 3*pe}, 0},
		{FormatOptions{Label: "datastore1"}, []int64{over + pe + 511}, 0},
		{FormatOptions{Generation: VMFS5}, []int64{over + 4*pe, over + pe}, 0},
		{FormatOptions{Generation: VMFS5}, []int64{4 << 40}, 0},
		{FormatOptions{Generation: VMFS5}, []int64{15 << 40, 15 << 40, 15 << 40, 15 << 40, 4 << 40}, 0}, // .fbb.sf has a pointer block
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%v-%d-%d", test.o.Generation, test.o.BlockBytes>>20, len(test.sizes)), func(t *testing.T) {
			t.Parallel()
			f, sum := sound(t, formatTest(t, test.o, test.sizes...))
			h := f.Header()
			if h.Label != test.o.Label || test.o.Generation != 0 && h.Generation != test.o.Generation || test.o.BlockBytes != 0 && h.BlockBytes != test.o.BlockBytes {
				t.Errorf("%+v", h)
			}
			if sum.Files != 0 || sum.Tables[0].Total != uint64(f.SizeBytes()/h.BlockBytes) {
				t.Errorf("%+v", sum)
			}
			if test.free != 0 && sum.Tables[0].Free != test.free {
				t.Errorf("%d blocks are free, want %d", sum.Tables[0].Free, test.free)
			}
		})
	}
}

// TestFormatMany makes a volume of as many devices as there can be.
func TestFormatMany(t *testing.T) {
	sizes := make([]int64, maxDevices)
	for i := range sizes {
		sizes[i] = dataAt + peBytes
	}
	sound(t, formatTest(t, FormatOptions{}, sizes...))
	if err := Format(t.Context(), imageFiles(t, append(sizes, sizes[0])...), FormatOptions{}); !errors.Is(err, disk.ErrUnsupported) {
		t.Error(err)
	}
}

// TestFormatSame makes the same volume twice.
func TestFormatSame(t *testing.T) {
	o := FormatOptions{Time: time.Unix(1e9, 0), UUID: UUID{1}, Volume: UUID{2}, Devices: []UUID{{3}}}
	var sums [2][]byte
	for i := range sums {
		d := formatTest(t, o, dataAt+peBytes)[0]
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(d.RW, 0, d.SizeBytes)); err != nil {
			t.Fatal(err)
		}
		sums[i] = h.Sum(nil)
	}
	if string(sums[0]) != string(sums[1]) {
		t.Error("the volumes differ")
	}
}

// TestFormatRefuses keeps what is there.
func TestFormatRefuses(t *testing.T) {
	for _, o := range []FormatOptions{
		{Generation: VMFS6},
		{Generation: VMFS5, BlockBytes: 2 << 20},
		{Generation: VMFS3, BlockBytes: 3 << 20},
		{Label: string(make([]byte, 128))},
		{Label: "a/b"},
	} {
		if err := Format(t.Context(), imageFiles(t, 1<<30), o); !errors.Is(err, disk.ErrUnsupported) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if err := Format(t.Context(), imageFiles(t, dataAt+peBytes-1), FormatOptions{}); !errors.Is(err, disk.ErrUnsupported) {
		t.Error(err)
	}
	devices := formatTest(t, FormatOptions{Label: "old"}, 1<<30)
	if err := Format(t.Context(), devices, FormatOptions{}); !errors.Is(err, ErrInUse) {
		t.Error(err)
	}
	if f, _ := sound(t, devices); f.Header().Label != "old" {
		t.Error("the label is gone")
	}
	if err := Format(t.Context(), devices, FormatOptions{Label: "new", Force: true}); err != nil {
		t.Error(err)
	}
	if f, _ := sound(t, devices); f.Header().Label != "new" {
		t.Error("the label is old")
	}
	// A host uses it.
	if _, err := devices[0].RW.WriteAt([]byte{2}, dataAt+heartbeatsAt); err != nil {
		t.Fatal(err)
	}
	if err := Format(t.Context(), devices, FormatOptions{Force: true}); !errors.Is(err, ErrInUse) {
		t.Error(err)
	}
	if err := Format(t.Context(), devices, FormatOptions{Force: true, Images: true}); err != nil {
		t.Error(err)
	}
	sound(t, devices)
	// Something else is there.
	other := imageFiles(t, 1<<30)
	if _, err := other[0].RW.WriteAt([]byte("x"), 1080); err != nil {
		t.Fatal(err)
	}
	if err := Format(t.Context(), other, FormatOptions{}); !errors.Is(err, ErrInUse) {
		t.Error(err)
	}
}

// TestFormatCrash has a format end at any write: there is no volume then, and neither is
// what was there before.
func TestFormatCrash(t *testing.T) {
	devices := formatTest(t, FormatOptions{}, 1<<30)
	whole := false
	for n := 0; !whole && n < 1000; n++ {
		c := &crashing{ReadWriterAt: devices[0].RW, left: n}
		err := Format(t.Context(), []WriteDevice{{Name: "crash", RW: c, SizeBytes: 1 << 30}}, FormatOptions{Force: true, Images: true, Label: "second"})
		whole = err == nil
		f, openErr := Open(readers(devices), Options{})
		if (openErr == nil) != whole && n > 0 {
			t.Fatalf("after %d writes: %v, %v", n, err, openErr)
		}
		if whole && f.Header().Label != "second" {
			t.Error("it is the old volume")
		}
	}
	if !whole {
		t.Error("it is never done")
	}
	sound(t, devices)
}

var errCrash = errors.New("crash")

// crashing fails after some writes.
type crashing struct {
	ReadWriterAt
	left int
}

func (c *crashing) WriteAt(p []byte, off int64) (int, error) {
	if c.left == 0 {
		return 0, errCrash
	}
	c.left--
	return c.ReadWriterAt.WriteAt(p, off)
}

func openWriter(tb testing.TB, devices []WriteDevice) *Writer {
	tb.Helper()
	w, err := OpenWriter(devices, Options{})
	if err != nil {
		tb.Fatal(err)
	}
	return w
}
