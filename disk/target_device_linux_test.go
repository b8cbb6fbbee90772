// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
	"golang.org/x/sys/unix"
)

func readDevice(t *testing.T, dev string) []byte {
	t.Helper()
	f, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDeviceTarget(t *testing.T) {
	const devSize, size = 8 << 20, 7<<20 + 4096 + 512 + 100
	tests := []struct {
		name         string
		assumeZeroed bool
		noIoctl      bool
		limit        int
	}{
		{name: "zeroed by the device", limit: maxSpans},
		{name: "zeroed by writing", noIoctl: true, limit: maxSpans},
		{name: "few ranges remembered", limit: 4},
		{name: "assumed zeroed", assumeZeroed: true, limit: maxSpans},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dev := testenv.LoopDevice(t, devSize, 0xee)
			w, err := OpenDevice(dev, DeviceOptions{SizeBytes: size, AssumeZeroed: tt.assumeZeroed})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Abort()
			w.noIoctl, w.limit = tt.noIoctl, tt.limit
			want := bytes.Repeat([]byte{0xee}, devSize)
			if !tt.assumeZeroed {
				clear(want[:size])
			}
			writeScattered(t, w, want)
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if tt.assumeZeroed && len(w.known) != 0 {
				t.Error("ranges were remembered for nothing")
			}
			if !bytes.Equal(readDevice(t, dev), want) {
				t.Error("content differs")
			}
		})
	}
}

// writeScattered writes pieces of whole sectors in random order from several
// goroutines, and the same to model.
func writeScattered(t *testing.T, w *DeviceTarget, model []byte) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	var wg sync.WaitGroup
	jobs := make(chan Run)
	for range 4 {
		wg.Go(func() {
			for j := range jobs {
				if _, err := w.WriteAt(model[j.Offset:j.End()], j.Offset); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, i := range r.Perm(300) { // 300 slots of 20 KiB, not aligned to pages
		if r.IntN(2) == 0 {
			continue
		}
		off, n := int64(i*20<<10+512*r.IntN(3)), int64(512*(1+r.IntN(30)))
		copy(model[off:off+n], pattern(int(n), uint64(i)))
		jobs <- Run{Offset: off, Length: n}
	}
	close(jobs)
	wg.Wait()
}

func TestOpenDeviceRefuses(t *testing.T) {
	dev := testenv.LoopDevice(t, 1<<20, 0xee)
	first, err := OpenDevice(dev, DeviceOptions{SizeBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, path string
		size       int64
		want       error
	}{
		{"in use", dev, 512, ErrInUse},
		{"regular file", file, 512, ErrUnsupported},
		{"fifo", fifo, 512, ErrUnsupported},
		{"character device", "/dev/null", 512, ErrUnsupported},
		{"negative size", dev, -1, os.ErrInvalid},
		{"missing", file + "x", 512, os.ErrNotExist},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := OpenDevice(tt.path, DeviceOptions{SizeBytes: tt.size}); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
	first.Abort()
	first.Abort()
	if _, err := OpenDevice(dev, DeviceOptions{SizeBytes: 1<<20 + 1}); !errors.Is(err, ErrMismatch) {
		t.Errorf("too small: %v", err)
	}
}

func TestDeviceTargetFailedWrite(t *testing.T) {
	w, err := OpenDevice(testenv.LoopDevice(t, 1<<20, 0xee), DeviceOptions{SizeBytes: 1 << 19})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt(make([]byte, 512), 1<<19); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("write behind the disk: %v", err)
	}
	if err := w.Close(); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("Close after it: %v", err)
	}
	if err := w.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
}

// A device is written over and zeroed in any order, also where it is assumed to
// be zeroed, and nothing behind the disk is touched.
func TestDeviceOverwrite(t *testing.T) {
	const devSize, size = 2 << 20, 1<<20 + 4096 + 512
	for _, zeroed := range []bool{false, true} {
		dev := testenv.LoopDevice(t, devSize, 0xee)
		w, err := OpenDevice(dev, DeviceOptions{SizeBytes: size, AssumeZeroed: zeroed})
		if err != nil {
			t.Fatal(err)
		}
		model := bytes.Repeat([]byte{0xdd}, size)
		if _, err := w.WriteAt(model, 0); err != nil {
			t.Fatal(err)
		}
		overwrite(t, w, model, size)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got := readDevice(t, dev)
		if !bytes.Equal(got[size:], bytes.Repeat([]byte{0xee}, devSize-size)) {
			t.Error("what is behind the disk was written to")
		}
		if !bytes.Equal(got[:size], model) {
			t.Error("the disk is not what was written")
		}
	}
}

// Zeros in very many places take no more memory than data does.
func TestDeviceZerosApart(t *testing.T) {
	const size = 1 << 20
	dev := testenv.LoopDevice(t, size, 0xee)
	w, err := OpenDevice(dev, DeviceOptions{SizeBytes: size})
	if err != nil {
		t.Fatal(err)
	}
	w.limit = 16
	for off := int64(0); off < size; off += 8192 {
		if err := w.ZeroAt(off, 4096); err != nil {
			t.Fatal(err)
		}
		if n := len(w.known); n > w.limit {
			t.Fatalf("%d ranges are kept", n)
		}
	}
	if _, err := w.WriteAt([]byte("data"), 5000); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	copy(want[5000:], "data")
	if !bytes.Equal(readDevice(t, dev), want) {
		t.Error("the disk is not what was written")
	}
}
