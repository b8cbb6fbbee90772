// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"context"
	"iter"

	"github.com/vmstream/vmstream/disk"
)

// extent is one extent of an open link.
type extent interface {
	disk.Image
	extentInfo() ExtentInfo
	// check reads all metadata and refuses what no reading of data would find.
	check(ctx context.Context) error
}

// flatExtent is a piece of a raw file or device.
type flatExtent struct {
	file        disk.RawFile
	info        ExtentInfo
	offsetBytes int64
	sizeBytes   int64
	storedBytes int64 // less than sizeBytes if a short file is padded with zeros
}

// openFlat makes an extent of a file. The file is closed with the extent; if
// there is an error it stays the caller's.
func openFlat(f disk.RawFile, sh *shared, e Extent, padShort bool) (*flatExtent, error) {
	x := &flatExtent{
		file: f, offsetBytes: e.OffsetSectors * disk.SectorSize,
		sizeBytes: e.Sectors * disk.SectorSize, storedBytes: e.Sectors * disk.SectorSize,
	}
	x.info = ExtentInfo{
		Path: f.Name(), Type: e.Type, SizeBytes: x.sizeBytes,
		OffsetBytes: x.offsetBytes, FileBytes: f.Size(),
	}
	if have := max(f.Size()-x.offsetBytes, 0); have < x.sizeBytes {
		err := &disk.FormatError{
			File: f.Name(), Format: "vmdk flat extent", Field: "length", Offset: -1, Err: disk.ErrTruncated,
			Detail: "the file is shorter than the extent that the descriptor promises",
		}
		if !padShort {
			return nil, err
		}
		sh.warnf("%v; what is missing is read as zeros", err)
		x.storedBytes = have
	}
	return x, nil
}

// Size returns the length of the extent in bytes.
func (x *flatExtent) Size() int64 { return x.sizeBytes }

// Close closes the file.
func (x *flatExtent) Close() error { return x.file.Close() }

func (x *flatExtent) extentInfo() ExtentInfo { return x.info }

func (x *flatExtent) check(context.Context) error { return nil }

// ReadAt reads the extent; see [disk.Image].
func (x *flatExtent) ReadAt(p []byte, off int64) (int, error) {
	want, eof := clipRange(len(p), off, x.sizeBytes)
	if want == 0 {
		return 0, eof
	}
	p = p[:want]
	stored := min(int64(want), max(x.storedBytes-off, 0))
	clear(p[stored:])
	if stored > 0 {
		// At the file's very end the file may say EOF together with the bytes.
		if n, err := x.file.ReadAt(p[:stored], x.offsetBytes+off); int64(n) < stored {
			return n, err
		}
	}
	return want, eof
}

// Prefetch asks the file; see [disk.Prefetcher].
func (x *flatExtent) Prefetch(off, n int64) {
	if end := clipEnd(off, n, x.storedBytes); off >= 0 && off < end {
		disk.Prefetch(x.file, x.offsetBytes+off, end-off)
	}
}

// Runs yields data and holes of the file; see [disk.Image].
func (x *flatExtent) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	return func(yield func(disk.Run, error) bool) {
		end := clipEnd(off, n, x.sizeBytes)
		stored := min(end, x.storedBytes)
		if off < stored {
			for r, err := range x.file.Runs(x.offsetBytes+off, stored-off) {
				r.Offset -= x.offsetBytes
				if err != nil {
					r = disk.Run{}
				}
				if !yield(r, err) || err != nil {
					return
				}
			}
		}
		if from := max(off, stored); from < end {
			yield(disk.Run{Offset: from, Length: end - from, Kind: disk.Zero}, nil)
		}
	}
}

// zeroExtent stores nothing.
type zeroExtent struct{ sizeBytes int64 }

// Size returns the length of the extent in bytes.
func (x zeroExtent) Size() int64 { return x.sizeBytes }

// Close does nothing.
func (x zeroExtent) Close() error { return nil }

func (x zeroExtent) extentInfo() ExtentInfo {
	return ExtentInfo{Type: ExtentZero, SizeBytes: x.sizeBytes}
}

func (x zeroExtent) check(context.Context) error { return nil }

// ReadAt gives zeros.
func (x zeroExtent) ReadAt(p []byte, off int64) (int, error) {
	want, eof := clipRange(len(p), off, x.sizeBytes)
	clear(p[:want])
	return want, eof
}

// Runs yields one run of kind Zero.
func (x zeroExtent) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	return func(yield func(disk.Run, error) bool) {
		if end := clipEnd(off, n, x.sizeBytes); end > off {
			yield(disk.Run{Offset: off, Length: end - off, Kind: disk.Zero}, nil)
		}
	}
}
