// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vmstream/vmstream/internal/writeback"
)

// UpdateRaw opens the raw disk of sizeBytes bytes in the regular file path for
// writing over what it has. Abort, and a Close that fails, remove it.
func UpdateRaw(path string, sizeBytes int64) (*RawTarget, error) {
	f, err := os.OpenFile(path, os.O_RDWR|openNonblock, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && (!st.Mode().IsRegular() || st.Size() < sizeBytes) {
		err = fmt.Errorf("%s: no regular file of %d bytes: %w", path, sizeBytes, ErrMismatch)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &RawTarget{f: writeback.New(f), size: sizeBytes}, nil
}

// clipZero returns where the n bytes at off of a disk of size bytes end; a last
// part of a sector may be counted whole.
func clipZero(off, n, size int64) (int64, error) {
	end := (size + SectorSize - 1) / SectorSize * SectorSize
	if off < 0 || n < 0 || off > end || n > end-off {
		return 0, fmt.Errorf("zeros at %d: the disk has %d bytes: %w", off, size, fs.ErrInvalid)
	}
	return min(off+n, size), nil
}

// ZeroAt makes n bytes at off zero, as a hole where the file system has such.
// It may be called as WriteAt may.
func (t *RawTarget) ZeroAt(off, n int64) error {
	end, err := clipZero(off, n, t.size)
	if err == nil && off < end {
		err = punchHole(t.f.File, off, end-off)
		if errors.Is(err, errors.ErrUnsupported) {
			err = writeZeros(t.f.File, off, end)
		}
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", t.f.Name(), err)
		t.failed.set(err)
	}
	return err
}

// ZeroAt makes n bytes at off zero, whatever the device is assumed to hold. It
// may be called as WriteAt may.
func (t *DeviceTarget) ZeroAt(off, n int64) error {
	end, err := clipZero(off, n, t.opt.SizeBytes)
	if err == nil && off < end {
		t.gate.Lock()
		if err = t.zero(span{off, end}); err == nil && !t.opt.AssumeZeroed {
			t.known.add(off, end)
		}
		many := len(t.known) > t.limit
		t.gate.Unlock()
		if many && err == nil {
			err = t.thin()
		}
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", t.f.Name(), err)
		t.failed.set(err)
	}
	return err
}

func writeZeros(f *os.File, from, to int64) error {
	for from < to {
		n, err := f.WriteAt(zeroPage[:min(to-from, int64(len(zeroPage)))], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}
