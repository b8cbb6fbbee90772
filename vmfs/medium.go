// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/vmstream/vmstream/disk"
)

// WriteDevice is a device, or an image of one, that is written. What has a method
// Sync() error, as *os.File, is asked for it where the order of writes matters.
type WriteDevice struct {
	Name      string // for messages
	RW        ReadWriterAt
	SizeBytes int64
}

// ReadWriterAt is what a volume is written to.
type ReadWriterAt interface {
	io.ReaderAt
	io.WriterAt
}

// readers are the devices for those who read.
func readers(devices []WriteDevice) []Device {
	all := make([]Device, len(devices))
	for i, d := range devices {
		all[i] = Device{Name: d.Name, R: d.RW, SizeBytes: d.SizeBytes}
	}
	return all
}

// medium is a logical volume that is written.
type medium struct {
	vol *volume
	to  []WriteDevice
}

// write writes p at an offset in the volume.
func (m *medium) write(p []byte, off int64) error {
	for len(p) > 0 {
		r, at, ok := m.vol.find(off)
		if !ok {
			return fmt.Errorf("VMFS: byte %d of the volume: %w", off, ErrMissingDevice)
		}
		n := min(int64(len(p)), r.logical+r.length-off)
		if _, err := m.to[r.device].RW.WriteAt(p[:n], at); err != nil {
			return fmt.Errorf("%s: %w", m.to[r.device].Name, err)
		}
		p, off = p[n:], off+n
	}
	return nil
}

// zero makes n bytes zero. What is zero is not written, so that images stay sparse.
func (m *medium) zero(off, n int64) error {
	b := make([]byte, min(n, 1<<20))
	for n > 0 {
		b = b[:min(int64(len(b)), n)]
		if err := m.vol.readFull(b, off, "what is to be zeroed"); err != nil {
			return err
		}
		if !disk.IsZero(b) {
			clear(b)
			if err := m.write(b, off); err != nil {
				return err
			}
		}
		off, n = off+int64(len(b)), n-int64(len(b))
	}
	return nil
}

// sync has all devices keep what was written.
func (m *medium) sync() error { return syncDevices(m.to) }

func syncDevices(devices []WriteDevice) error {
	for _, d := range devices {
		if s, ok := d.RW.(interface{ Sync() error }); ok {
			if err := s.Sync(); err != nil {
				return fmt.Errorf("%s: %w", d.Name, err)
			}
		}
	}
	return nil
}

func (f fields) put32(off int, v uint32)  { binary.LittleEndian.PutUint32(f[off:], v) }
func (f fields) put64(off int, v uint64)  { binary.LittleEndian.PutUint64(f[off:], v) }
func (f fields) putUUID(off int, id UUID) { copy(f[off:], id[:]) }

// putLock fills in a lock that nobody holds.
func (f fields) putLock(kind uint32, at int64) {
	f.put32(0, kind)
	f.put64(4, uint64(at))
	f.put64(0x1C, 1)
}
