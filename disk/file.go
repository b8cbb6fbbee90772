// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"sync/atomic"

	"github.com/vmstream/vmstream/internal/readahead"
)

// File is a raw disk in a regular file or on a block device, as an [Image].
// Holes of a regular file are runs of kind Zero.
type File struct {
	f      *os.File
	size   int64
	device bool
	// noSeek is set once the file system has refused SEEK_DATA: then all is data.
	noSeek atomic.Bool
	gauge  readahead.Gauge
}

// OpenRaw opens a regular file or a block device read-only as a raw disk. The
// content is never looked at. A FIFO or a socket does not hang the caller: it
// is refused.
func OpenRaw(path string) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, err
	}
	im, err := NewFile(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return im, nil
}

// NewFile returns the open file f as a raw disk and takes it over.
// The caller still closes f if NewFile fails.
func NewFile(f *os.File) (*File, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	im := &File{f: f}
	switch {
	case st.Mode().IsRegular():
		im.size = st.Size()
	case st.Mode()&fs.ModeDevice != 0 && st.Mode()&fs.ModeCharDevice == 0:
		im.device = true
		if im.size, err = deviceSize(f); err != nil {
			return nil, fmt.Errorf("%s: size of the device: %w", f.Name(), err)
		}
	default:
		return nil, fmt.Errorf("%s: neither a regular file nor a block device: %w", f.Name(), ErrUnsupported)
	}
	return im, nil
}

// Size returns the size in bytes; it need not be a multiple of a sector.
func (im *File) Size() int64 { return im.size }

// Device reports if this is a block device.
func (im *File) Device() bool { return im.device }

// Name returns the path the file was opened by.
func (im *File) Name() string { return im.f.Name() }

// File returns the open file, for ioctls.
func (im *File) File() *os.File { return im.f }

// Stat tells of the open file.
func (im *File) Stat() (fs.FileInfo, error) { return im.f.Stat() }

// Close closes the file.
func (im *File) Close() error { return im.f.Close() }

// Forget has what is read next in a range of a block device come from the device, not
// from what the kernel has kept of it. Others may write to a device.
func (im *File) Forget(off, n int64) {
	if im.device {
		forget(im.f, off, n)
	}
}

// ReadAt reads from the file. A file that has become shorter than it was when
// it was opened gives ErrTruncated, never zeros.
func (im *File) ReadAt(p []byte, off int64) (int, error) {
	want, eof := clip(len(p), off, im.size)
	n, err := im.gauge.ReadAt(im.f, p[:want], off)
	if n == want {
		return n, eof
	}
	if errors.Is(err, io.EOF) {
		err = &FormatError{File: im.f.Name(), Field: "data", Offset: off + int64(n), Err: ErrTruncated, Detail: "the file became shorter while it was being read"}
	}
	return n, err
}

// Runs yields data and holes as the file system reports them; a device, or a
// file system that cannot tell, is all data.
func (im *File) Runs(off, n int64) iter.Seq2[Run, error] {
	return func(yield func(Run, error) bool) {
		if off < 0 || off >= im.size {
			return
		}
		end := im.size
		if n < im.size-off {
			end = off + n
		}
		for off < end {
			r, err := im.runAt(off, end)
			if err != nil {
				yield(Run{}, err)
				return
			}
			if !yield(r, nil) {
				return
			}
			off = r.End()
		}
	}
}

func (im *File) runAt(off, end int64) (Run, error) {
	all := Run{Offset: off, Length: end - off, Kind: Data}
	if im.device || im.noSeek.Load() {
		return all, nil
	}
	data, err := seekData(im.f, off)
	switch {
	case errors.Is(err, errNoData): // nothing but a hole up to the end of the file
		return Run{Offset: off, Length: end - off, Kind: Zero}, nil
	case errors.Is(err, errors.ErrUnsupported):
		im.noSeek.Store(true)
		return all, nil
	case err != nil:
		return Run{}, fmt.Errorf("%s: looking for data at %d: %w", im.f.Name(), off, err)
	}
	if data > off {
		return Run{Offset: off, Length: min(data, end) - off, Kind: Zero}, nil
	}
	hole, err := seekHole(im.f, off)
	if err != nil {
		return Run{}, fmt.Errorf("%s: looking for a hole at %d: %w", im.f.Name(), off, err)
	}
	if hole <= off { // changed under us: read what is there
		return all, nil
	}
	return Run{Offset: off, Length: min(hole, end) - off, Kind: Data}, nil
}
