// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/vmstream/vmstream/internal/writeback"
)

// DeviceOptions says how a block device is written.
type DeviceOptions struct {
	// SizeBytes is the size of the disk. The device may be larger; what lies
	// behind is never touched.
	SizeBytes int64

	// AssumeZeroed says that the device reads as zeros where it is not
	// written, as a new thin volume does. Nothing is zeroed then.
	AssumeZeroed bool
}

// maxSpans bounds the memory for the ranges written to a device: 1 MiB.
const maxSpans = 1 << 16

// DeviceTarget is a raw disk being written to a block device. It is a
// [Writer]; WriteAt is safe for concurrent use.
type DeviceTarget struct {
	f     *writeback.File
	opt   DeviceOptions
	align int64 // of what can be zeroed by the device
	limit int   // ranges kept before gaps are zeroed early

	// gate is held shared while data is written and alone while gaps are
	// zeroed, so that zeros never overtake data.
	gate sync.RWMutex

	mu    sync.Mutex
	known spans // written or zeroed

	failed   firstError
	noIoctl  bool // the device refused to zero by itself
	finished bool
}

var _ Writer = (*DeviceTarget)(nil)

// OpenDevice opens the block device path for writing a raw disk of
// opt.SizeBytes. A device that is mounted, or held by device mapper, MD or
// swap, gives ErrInUse; one that is too small gives ErrMismatch. Everything
// else about the device is the caller's decision: its content is lost.
func OpenDevice(path string, opt DeviceOptions) (*DeviceTarget, error) {
	if opt.SizeBytes < 0 {
		return nil, fmt.Errorf("%s: size of %d bytes: %w", path, opt.SizeBytes, fs.ErrInvalid)
	}
	// Asked before the open: to open a tape or a FIFO has effects of its own.
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !isBlockDevice(st.Mode()) {
		return nil, fmt.Errorf("%s: not a block device: %w", path, ErrUnsupported)
	}
	f, err := openExclusive(path)
	if err != nil {
		return nil, err
	}
	t, err := newDeviceTarget(f, opt)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return t, nil
}

func isBlockDevice(m fs.FileMode) bool { return m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0 }

func newDeviceTarget(f *os.File, opt DeviceOptions) (*DeviceTarget, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !isBlockDevice(st.Mode()) {
		return nil, fmt.Errorf("%s: was replaced while it was being opened: %w", f.Name(), ErrUnsupported)
	}
	size, err := deviceSize(f)
	if err != nil {
		return nil, fmt.Errorf("%s: size of the device: %w", f.Name(), err)
	}
	if size < opt.SizeBytes {
		return nil, fmt.Errorf("%s: the device has %d bytes, the disk needs %d: %w", f.Name(), size, opt.SizeBytes, ErrMismatch)
	}
	return &DeviceTarget{f: writeback.New(f), opt: opt, align: zeroAlignment(f), limit: maxSpans}, nil
}

// WriteAt writes p at the offset off. The last write may reach to the end of
// the sector in which the disk ends, if it has zeros there.
func (t *DeviceTarget) WriteAt(p []byte, off int64) (int, error) {
	n, err := clipWrite(p, off, t.opt.SizeBytes)
	if err != nil {
		err = fmt.Errorf("%s: %w", t.f.Name(), err)
	} else {
		n, err = t.write(p[:n], off)
	}
	if err != nil {
		t.failed.set(err)
		return n, err
	}
	return len(p), nil
}

func (t *DeviceTarget) write(p []byte, off int64) (int, error) {
	t.gate.RLock()
	n, err := t.f.WriteAt(p, off)
	many := false
	if err == nil && !t.opt.AssumeZeroed {
		t.mu.Lock()
		t.known.add(off, off+int64(n))
		many = len(t.known) > t.limit
		t.mu.Unlock()
	}
	t.gate.RUnlock()
	if many {
		err = t.thin()
	}
	return n, err
}

// thin halves the number of ranges by zeroing the lowest gaps now. To write
// there later is still right, only slower; with writes that go upwards on the
// whole it does not happen.
func (t *DeviceTarget) thin() error {
	t.gate.Lock()
	defer t.gate.Unlock()
	if len(t.known) <= t.limit { // another writer has done it
		return nil
	}
	return t.zeroGaps(t.known.gaps(t.opt.SizeBytes, t.limit/2))
}

// zeroGaps zeroes gaps, which are the lowest there are.
func (t *DeviceTarget) zeroGaps(gaps []span) error {
	for _, g := range gaps {
		if err := t.zero(g); err != nil {
			return fmt.Errorf("%s: zeroing %d bytes at %d: %w", t.f.Name(), g.end-g.off, g.off, err)
		}
	}
	if len(gaps) > 0 {
		t.known.add(0, gaps[len(gaps)-1].end) // below the last gap nothing is missing now
	}
	return nil
}

// zeroPiece bounds one request to the device, so that the process can be
// stopped between two of them.
const zeroPiece = 256 << 20

// zero clears a range: whole pages by the device, the rest by writing.
func (t *DeviceTarget) zero(g span) error {
	from := min((g.off+t.align-1)/t.align*t.align, g.end)
	to := max(g.end/t.align*t.align, from)
	if err := writeZeros(t.f.File, g.off, from); err != nil {
		return err
	}
	for from < to && !t.noIoctl {
		n := min(to-from, zeroPiece)
		err := deviceZeroOut(t.f.File, from, n)
		if errors.Is(err, errors.ErrUnsupported) {
			t.noIoctl = true
			break
		}
		if err != nil {
			return err
		}
		from += n
	}
	return writeZeros(t.f.File, from, g.end)
}

// Ordered returns false.
func (t *DeviceTarget) Ordered() bool { return false }

// Close zeroes what was not written, unless the device is assumed to be zeroed
// there, and makes everything durable.
func (t *DeviceTarget) Close() error {
	if t.finished {
		return fmt.Errorf("%s: %w", t.f.Name(), fs.ErrClosed)
	}
	t.finished = true
	return errors.Join(t.complete(), t.f.Close())
}

func (t *DeviceTarget) complete() error {
	if err := t.failed.get(); err != nil {
		return err
	}
	if !t.opt.AssumeZeroed {
		gaps := t.known.gaps(t.opt.SizeBytes, len(t.known)+1)
		if err := t.zeroGaps(gaps); err != nil {
			return err
		}
	}
	return t.f.Sync()
}

// Abort closes the device. What it holds is neither the old nor the new disk.
func (t *DeviceTarget) Abort() {
	if !t.finished {
		t.finished = true
		_ = t.f.Close() // nothing written matters any more
	}
}
