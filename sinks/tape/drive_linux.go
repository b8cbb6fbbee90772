// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vmstream/vmstream/scsi"
)

// device is a drive of the driver st. The bare descriptor is kept: the runtime's
// poller has no use for a tape.
type device struct {
	fd   int
	path string
}

// mtop is struct mtop.
type mtop struct {
	op    int16
	_     int16
	count int32
}

// mtget is struct mtget. C's long has the width of a pointer.
type mtget struct {
	kind, resid, dsreg, gstat, erreg uintptr
	fileno, blkno                    int32
}

// mtpos is struct mtpos.
type mtpos struct{ blkno uintptr }

// ioctl numbers as asm-generic/ioctl.h makes them of direction, length, 'm' and number.
const (
	ioctlOp  = 1<<30 | unsafe.Sizeof(mtop{})<<16 | 'm'<<8 | 1
	ioctlGet = 2<<30 | unsafe.Sizeof(mtget{})<<16 | 'm'<<8 | 2
	ioctlPos = 2<<30 | unsafe.Sizeof(mtpos{})<<16 | 'm'<<8 | 3
)

// Bits of mt_gstat.
const (
	gstatBeginning = 0x40000000
	gstatEndOfData = 0x08000000
	gstatProtected = 0x04000000
	gstatOnline    = 0x01000000
)

// majorTape is the number of tape drives.
const majorTape = 9

// openDevice opens a drive without waiting for a tape. Without a tape it gives
// errNoTape at once.
func openDevice(path string, writing bool) (drive, error) {
	mode := unix.O_RDONLY
	if writing {
		mode = unix.O_RDWR
	}
	// Without O_NONBLOCK, opening an empty drive waits for two minutes.
	fd, err := retryOpen(path, mode|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, kind(err))
	}
	d := &device{fd: fd, path: path}
	if err := d.usable(writing); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), d.close())
	}
	return d, nil
}

func retryOpen(path string, mode int) (int, error) {
	for {
		fd, err := unix.Open(path, mode, 0)
		if err != unix.EINTR { //nolint:errorlint // it is an Errno
			return fd, err
		}
	}
}

// usable fails if this is no tape drive, one that rewinds when it is closed, or one
// without a tape that can be used. Opened without waiting, the driver does not look if
// the tape is write-protected.
func (d *device) usable(writing bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return err
	}
	const noRewind = 0x80 // in the minor number
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFCHR || unix.Major(uint64(st.Rdev)) != majorTape:
		return fmt.Errorf("it is no tape drive: %w", fs.ErrInvalid)
	case unix.Minor(uint64(st.Rdev))&noRewind == 0:
		return fmt.Errorf("this name rewinds the tape when it is closed: take the one with n, such as /dev/nst0: %w", fs.ErrInvalid)
	}
	s, err := d.status()
	switch {
	case err != nil:
		return err
	case !s.online:
		return errNoTape
	case writing && s.protected:
		return errProtected
	}
	return nil
}

// kind adds to an error number what it says of a tape.
func kind(err error) error {
	for errno, k := range map[unix.Errno]error{
		unix.ENOSPC: errEnd, unix.ENOMEM: errSmall, unix.EIO: errIO, unix.ENOMEDIUM: errNoTape,
		unix.EROFS: errProtected, unix.EBUSY: errBusy, unix.EINVAL: errArgument,
	} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w (%w)", k, err)
		}
	}
	return err
}

func (d *device) read(p []byte) (int, error) {
	for {
		n, err := unix.Read(d.fd, p)
		if err == nil {
			return n, nil
		}
		if err != unix.EINTR { //nolint:errorlint // it is an Errno
			return 0, kind(err)
		}
	}
}

func (d *device) write(p []byte) (int, error) {
	for {
		n, err := unix.Write(d.fd, p)
		switch {
		case err == nil && n < len(p):
			return n, errEnd
		case err == nil:
			return n, nil
		case err != unix.EINTR: //nolint:errorlint // it is an Errno
			return 0, kind(err)
		}
	}
}

// ioctl calls the driver. argument points to a struct of the request's length.
func (d *device) ioctl(request uintptr, argument unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(d.fd), request, uintptr(argument))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return kind(errno)
		}
	}
}

func (d *device) do(op operation, count int) error {
	if count < 0 || count > 1<<31-1 {
		return fmt.Errorf("%v: %d: %w", op, count, fs.ErrInvalid)
	}
	m := mtop{op: int16(op), count: int32(count)}
	if err := d.ioctl(ioctlOp, unsafe.Pointer(&m)); err != nil {
		return fmt.Errorf("%v: %w", op, err)
	}
	return nil
}

func (d *device) status() (status, error) {
	var m mtget
	if err := d.ioctl(ioctlGet, unsafe.Pointer(&m)); err != nil {
		return status{}, fmt.Errorf("status: %w", err)
	}
	return status{
		online: m.gstat&gstatOnline != 0, protected: m.gstat&gstatProtected != 0,
		beginning: m.gstat&gstatBeginning != 0, endOfData: m.gstat&gstatEndOfData != 0,
		blockSize: int(m.dsreg & 0xffffff),
	}, nil
}

func (d *device) position() (int64, error) {
	var m mtpos
	if err := d.ioctl(ioctlPos, unsafe.Pointer(&m)); err != nil {
		return 0, fmt.Errorf("position: %w", err)
	}
	return int64(m.blkno), nil //nolint:gosec // a long
}

// alertTime is how long a drive is asked for its flags: it may be busy with the tape.
const alertTime = 10 * time.Second

// alerts asks the drive's other node, for this one gives no SCSI commands.
func (d *device) alerts() (words []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), alertTime)
	defer cancel()
	p, err := scsi.Sysfs{}.Place(d.path)
	if err != nil {
		return nil, err
	}
	g, err := scsi.Open(p.LUN.Generic)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	flags, err := g.TapeAlerts(ctx)
	for _, n := range flags {
		words = append(words, scsi.TapeAlert(n))
	}
	return words, err
}

func (d *device) close() error {
	if d.fd < 0 {
		return os.ErrClosed
	}
	fd := d.fd
	d.fd = -1
	return kind(unix.Close(fd))
}
