// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of the driver sg, which sd and st know as well.
const (
	sgIO    = 0x2285
	sgReset = 0x2284
)

// sgHeader is struct sg_io_hdr.
type sgHeader struct {
	interfaceID  int32
	direction    int32
	commandLen   uint8
	senseLen     uint8
	iovecs       uint16
	dataLen      uint32
	data         unsafe.Pointer
	command      unsafe.Pointer
	sense        unsafe.Pointer
	timeoutMs    uint32
	flags        uint32
	packID       int32
	user         unsafe.Pointer
	status       uint8
	maskedStatus uint8
	msgStatus    uint8
	senseWritten uint8
	hostStatus   uint16
	driverStatus uint16
	resid        int32
	durationMs   uint32
	info         uint32
}

// Directions of data.
const (
	directionNone = -1
	directionOut  = -2
	directionIn   = -3
)

// sgPort is a device of Linux. The bare descriptor is kept: the runtime's poller has no
// use for a device, and the mode that it would set has none either.
type sgPort struct {
	mu   sync.RWMutex // held shared by commands, so that Close waits for them
	fd   int
	name string
}

// Open opens a device by its node: a whole disk, a generic device (sg), or a path of
// multipath. It is opened to be read; what commands do is not bound by that, but by what
// the kernel lets the process do: most need root. The node of a tape is not opened,
// which would disturb who uses it: name its generic device.
func Open(node string) (*Device, error) {
	fd, err := unix.Open(node, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: node, Err: err}
	}
	p := &sgPort{fd: fd, name: node}
	if err := p.usable(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", node, err), p.Close())
	}
	return NewDevice(node, p), nil
}

// usable fails for what takes no SCSI commands.
func (p *sgPort) usable() error {
	const getVersion = 0x2282
	var version int32
	if err := p.ioctl(getVersion, unsafe.Pointer(&version)); err != nil || version < 30000 {
		return fmt.Errorf("it takes no SCSI commands: %w", ErrNoDevice)
	}
	return nil
}

func (p *sgPort) ioctl(request uintptr, argument unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(p.fd), request, uintptr(argument))
	if errno != 0 {
		return errno
	}
	return nil
}

// Trouble on the way to a device, as the kernel counts it (DID_*).
const (
	hostNoConnect = 0x01
	hostTimeOut   = 0x03
	hostBusy      = 0x02
	hostRequeue   = 0x0d
)

func (p *sgPort) Execute(_ context.Context, c *Command) (Result, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.fd < 0 {
		return Result{}, os.ErrClosed
	}
	sense := make([]byte, 96)
	h := sgHeader{
		interfaceID: 'S', direction: directionNone, timeoutMs: uint32(c.Timeout.Milliseconds()), //nolint:gosec // seconds, or minutes
		commandLen: uint8(len(c.CDB)), senseLen: uint8(len(sense)), //nolint:gosec // 16 at most
	}
	var pins runtime.Pinner
	defer pins.Unpin()
	pin := func(b []byte) unsafe.Pointer {
		pins.Pin(&b[0])
		return unsafe.Pointer(&b[0])
	}
	h.command, h.sense = pin(c.CDB), pin(sense)
	for direction, data := range map[int32][]byte{directionIn: c.In, directionOut: c.Out} {
		if len(data) > 0 {
			h.direction, h.dataLen, h.data = direction, uint32(len(data)), pin(data) //nolint:gosec // some KiB
		}
	}
	if err := p.ioctl(sgIO, unsafe.Pointer(&h)); err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			return Result{}, fmt.Errorf("the kernel lets only root give this command: %w", err)
		}
		return Result{}, err
	}
	return h.result(sense)
}

// result tells how a command ended that the kernel has passed on.
func (h *sgHeader) result(sense []byte) (Result, error) {
	r := Result{
		Status: Status(h.status), Sense: sense[:min(int(h.senseWritten), len(sense))],
		Moved: int(h.dataLen) - int(max(h.resid, 0)),
	}
	if h.hostStatus == 0 || r.Status != StatusGood {
		return r, nil
	}
	switch h.hostStatus {
	case hostBusy, hostRequeue:
		r.Status = StatusBusy
		return r, nil
	case hostNoConnect:
		return r, fmt.Errorf("it does not answer: the path is gone: %w", ErrNoDevice)
	case hostTimeOut:
		return r, fmt.Errorf("no answer: %w", os.ErrDeadlineExceeded)
	}
	return r, fmt.Errorf("the host adapter reports 0x%02x: %w", h.hostStatus, ErrHardware)
}

// Reset has the kernel reset the device, and nothing wider than that.
func (p *sgPort) Reset(_ context.Context, s Scope) error {
	const noEscalation = 0x100
	how := map[Scope]int32{ResetLUN: 1, ResetTarget: 4}[s]
	if how == 0 {
		return ErrUnsupported
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.fd < 0 {
		return os.ErrClosed
	}
	how |= noEscalation
	return p.ioctl(sgReset, unsafe.Pointer(&how))
}

func (p *sgPort) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return os.ErrClosed
	}
	fd := p.fd
	p.fd = -1
	return unix.Close(fd)
}
