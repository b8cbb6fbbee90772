// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"io"
	"iter"
)

// SectorSize is the size of a sector in bytes. Virtual disk formats count in
// these whatever the physical sector size of a device is.
const SectorSize = 512

// MaxSize is the largest disk, in bytes, that readers accept: 64 TiB, above
// every product's limit. It bounds what hostile headers can make us do.
const MaxSize = 64 << 40

// Kind says where the bytes of a run come from.
type Kind uint8

// The kinds of runs.
const (
	Data   Kind = iota + 1 // stored: has to be read
	Zero                   // reads as zeros and need not be read
	Parent                 // not stored in this link: the parent's content
)

// String returns the kind's name in lower case.
func (k Kind) String() string {
	switch k {
	case Data:
		return "data"
	case Zero:
		return "zero"
	case Parent:
		return "parent"
	default:
		return "invalid"
	}
}

// Run is a range of a disk, in bytes, whose content comes from one kind of place.
type Run struct {
	Offset int64
	Length int64
	Kind   Kind
}

// End returns the offset just behind the run.
func (r Run) End() int64 { return r.Offset + r.Length }

// Image is the content of a virtual disk. All methods are safe for concurrent
// use, except that Close must come last.
//
// ReadAt has the contract of [io.ReaderAt]; ranges of kind Zero, and ranges of
// kind Parent in an image that has no parent to ask, read as zeros.
type Image interface {
	io.ReaderAt
	io.Closer

	// Size returns the capacity in bytes.
	Size() int64

	// Runs yields the runs of [off, off+n) in ascending order, without gaps
	// or overlaps, clipped to that range. Neighbours of one kind are merged
	// within reason, but a caller must not rely on it. No data is read. An
	// error is yielded once, with a zero Run, and ends the sequence. The range
	// is clipped to the disk.
	Runs(off, n int64) iter.Seq2[Run, error]
}

// Writer takes the content of one disk. Ranges never written read as zeros
// once Close has returned without an error.
type Writer interface {
	// WriteAt writes p at the offset off; both are multiples of SectorSize.
	// Ranges must not overlap. When Ordered reports false it is safe for
	// concurrent use; when it reports true, calls come one at a time and with
	// ascending offsets.
	io.WriterAt

	// Ordered reports if calls must come in ascending order, one at a time.
	Ordered() bool

	// Close completes metadata and makes everything durable. It is to be
	// called once, and without it the result is not a disk.
	Close() error

	// Abort gives up and releases resources; what has been written is
	// worthless. It does nothing after Close.
	Abort()
}
