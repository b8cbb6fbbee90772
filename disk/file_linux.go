// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// openNonblock keeps an open of a FIFO from waiting for its other end.
const openNonblock = unix.O_NONBLOCK

var errNoData = errors.New("no data behind this offset")

// seekData and seekHole move the file's own offset, which nothing here uses:
// all reading is by pread.
func seekData(f *os.File, off int64) (int64, error) {
	n, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return 0, errNoData
	case errors.Is(err, unix.EINVAL):
		return 0, errors.ErrUnsupported
	}
	return n, err
}

func seekHole(f *os.File, off int64) (int64, error) {
	return unix.Seek(int(f.Fd()), off, unix.SEEK_HOLE)
}

// forget drops clean pages; there are no others of what is only read. The kernel drops
// what it keeps in one piece only if all of that is meant, and keeps up to 2 MiB so.
func forget(f *os.File, off, n int64) {
	const piece = 2 << 20
	from := off &^ (piece - 1)
	_ = unix.Fadvise(int(f.Fd()), from, (off+n-from+piece-1)&^(piece-1), unix.FADV_DONTNEED)
}

func deviceSize(f *os.File) (int64, error) {
	// BLKGETSIZE64 gives bytes; x/sys names the ioctl but not its result, so
	// the portable way is to seek to the end, which block devices allow.
	return unix.Seek(int(f.Fd()), 0, unix.SEEK_END)
}
