// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openExclusive opens a block device for writing. O_EXCL without O_CREAT makes
// the kernel refuse a device that anybody else has claimed (open(2)).
func openExclusive(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL|openNonblock, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, claimed(path)
	}
	return f, err
}

func claimed(path string) error {
	return fmt.Errorf("%s: mounted, or part of something that is; unmount or stop it first: %w", path, ErrInUse)
}

// CheckUnclaimed returns an error (ErrInUse) if somebody has claimed the block
// device at path: a mounted file system, a volume group, an array. Who only has
// it open cannot be told.
func CheckUnclaimed(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_EXCL|openNonblock, 0)
	if errors.Is(err, unix.EBUSY) {
		return claimed(path)
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// zeroAlignment returns what offset and length of a BLKZEROOUT should be
// multiples of: the logical block, which the kernel asks for, and the page, so
// that no cached page is cleared in part.
func zeroAlignment(f *os.File) int64 {
	align := int64(os.Getpagesize())
	if n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET); err == nil {
		align = max(align, int64(n))
	}
	return align
}

// deviceZeroOut clears a range. A thin LUN is told that it need not keep anything there,
// if that reads as zeros afterwards: that is what punching a hole asks for. Otherwise, by
// the BLKZEROOUT ioctl, the kernel picks the device's own command or writes zeros.
// ErrUnsupported means that the caller has to write them.
func deviceZeroOut(f *os.File, off, length int64) error {
	if err := punchHole(f, off, length); !cannotZero(err) {
		return err
	}
	arg := [2]uint64{uint64(off), uint64(length)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&arg)))
	switch {
	case errno == 0:
		return nil
	case cannotZero(errno):
		return errors.ErrUnsupported
	}
	return errno
}

// cannotZero reports if an error says that a device does not do it, not that it has failed.
func cannotZero(err error) bool {
	for _, e := range []error{errors.ErrUnsupported, unix.EOPNOTSUPP, unix.EINVAL, unix.ENOTTY, unix.ENOSYS, unix.EREMOTEIO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
