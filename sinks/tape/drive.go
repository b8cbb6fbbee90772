// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"errors"
	"fmt"
)

// drive is a tape drive with a tape in it, as the Linux driver st shows one. It is
// used by one goroutine at a time.
type drive interface {
	// read reads from the tape. In variable mode that is one block, in fixed mode
	// as many as fit. 0 bytes and no error are a filemark, which is passed, or the
	// end of data: status tells. errSmall: the block is longer than p, and passed.
	read(p []byte) (int, error)
	// write writes p: in variable mode one block, in fixed mode several. errEnd is
	// the end of the medium or the warning before it; n bytes are on the tape.
	write(p []byte) (int, error)
	// do runs an operation.
	do(op operation, count int) error
	// status tells where the tape is.
	status() (status, error)
	// position counts the blocks and filemarks before the place where the tape is.
	position() (int64, error)
	// close gives the drive back, and ends a file that was being written with a
	// filemark.
	close() error
}

// alerter is a drive that tells of its TapeAlert flags. Asking clears them.
type alerter interface {
	alerts() ([]string, error)
}

// operation is one of MTIOCTOP.
type operation int16

// Operations that are used, with the numbers that Linux has for them.
const (
	opSpace    operation = 1  // forward over filemarks
	opBack     operation = 10 // backward over filemarks, to the far side of the last
	opMark     operation = 5  // write filemarks, and everything before them
	opRewind   operation = 6
	opOffline  operation = 7
	opEnd      operation = 12 // to the end of data
	opSetBlock operation = 20 // length of blocks; 0: variable
	opSeek     operation = 22 // to a position
)

func (o operation) String() string {
	switch o {
	case opSpace:
		return "space over filemarks"
	case opBack:
		return "space back over filemarks"
	case opMark:
		return "write a filemark"
	case opRewind:
		return "rewind"
	case opOffline:
		return "unload"
	case opEnd:
		return "space to the end of data"
	case opSetBlock:
		return "set the length of blocks"
	case opSeek:
		return "seek"
	}
	return fmt.Sprintf("operation %d", int16(o))
}

// status is what MTIOCGET tells.
type status struct {
	online    bool // a tape is there and ready
	protected bool // against writing
	beginning bool // the tape is at its beginning
	endOfData bool // a read has met the end of data
	blockSize int  // of fixed blocks; 0: variable
}

// What a drive's errors are.
var (
	errEnd       = errors.New("end of the tape")
	errSmall     = errors.New("the block is longer than what was asked for")
	errIO        = errors.New("the drive failed")
	errNoTape    = errors.New("no tape in the drive")
	errProtected = errors.New("the tape is write-protected")
	errBusy      = errors.New("the drive is in use")
	errArgument  = errors.New("the drive does not take this length")
)
