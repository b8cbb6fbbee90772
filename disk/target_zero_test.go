// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// Writes and zeros over what a raw disk has give what a slice of bytes has.
func TestUpdateRaw(t *testing.T) {
	const size = 1<<20 + 700 // the last sector is not whole
	path := filepath.Join(t.TempDir(), "disk")
	model := bytes.Repeat([]byte{0xee}, size+324)
	if err := os.WriteFile(path, model[:size], 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := UpdateRaw(path, size)
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, w, model, size)
	for _, bad := range [][2]int64{{-512, 512}, {0, size + 512}, {size + 1024, 0}, {512, -1}} {
		if err := w.ZeroAt(bad[0], bad[1]); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%d zeros at %d: %v", bad[1], bad[0], err)
		}
	}
	if err := w.Close(); err == nil { // a failure counts
		t.Error("closed after an error")
	}
	if _, err := UpdateRaw(path, size); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what failed is still there: %v", err)
	}
	if err := os.WriteFile(path, model[:100], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := UpdateRaw(path, size); !errors.Is(err, ErrMismatch) {
		t.Errorf("a file that is too short: %v", err)
	}
	if _, err := UpdateRaw(filepath.Dir(path), 0); err == nil {
		t.Error("a directory was opened")
	}
}

// overwrite writes and zeroes ranges of w and of model, and compares the file.
func overwrite(t *testing.T, w interface {
	Writer
	ZeroAt(off, n int64) error
}, model []byte, size int,
) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	end := len(model) / SectorSize
	for range 200 {
		from := r.IntN(end)
		to := from + 1 + r.IntN(end-from)
		b := model[from*SectorSize : to*SectorSize]
		if r.IntN(2) == 0 {
			clear(b)
			if err := w.ZeroAt(int64(from*SectorSize), int64(len(b))); err != nil {
				t.Fatal(err)
			}
			continue
		}
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		if len(model) > size {
			clear(model[size:])
		}
		if _, err := w.WriteAt(b, int64(from*SectorSize)); err != nil {
			t.Fatal(err)
		}
	}
	name := ""
	switch w := w.(type) {
	case *RawTarget:
		name = w.f.Name()
	case *DeviceTarget:
		name = w.f.Name()
	}
	got, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(got[:size], model[:size]) {
		t.Fatalf("the disk is not what was written: %v", err)
	}
}
