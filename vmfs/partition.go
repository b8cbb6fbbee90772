// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/disk/gpt"
)

// Device is a LUN, a partition of one, or an image of either.
type Device struct {
	Name      string // for messages
	R         io.ReaderAt
	SizeBytes int64
}

func (d *Device) fail(kind error, field string, off int64, format string, args ...any) error {
	return &disk.FormatError{File: d.Name, Format: "VMFS", Field: field, Offset: off, Err: kind, Detail: fmt.Sprintf(format, args...)}
}

// readFull fills p. What lies behind the end of the device is an error.
func (d *Device) readFull(p []byte, off int64, field string) error {
	if off < 0 || off > d.SizeBytes || int64(len(p)) > d.SizeBytes-off {
		return d.fail(disk.ErrTruncated, field, off, "%d bytes are expected there, the device has %d", len(p), d.SizeBytes)
	}
	err := disk.ReadFull(d.R, p, off)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return d.fail(disk.ErrTruncated, field, off, "the device became shorter while it was read")
	}
	return err
}

// Partition is where on a device a volume, or a part of one, may be.
type Partition struct {
	Table       string // "mbr", "gpt", or "" without a table
	Slot        int    // counted from 0; 0 without a table
	OffsetBytes int64
	SizeBytes   int64
}

// Types of partitions: a byte in the MBR, a GUID in a GPT. The GUID
// AA31E02A-400F-11DB-9590-000C2911D1B8 has been seen in both orders of bytes.
const (
	mbrVMFS      = 0xFB
	mbrGPT       = 0xEE
	mbrTableAt   = 446
	mbrSlots     = 4
	mbrEntry     = 16
	mbrSignature = 0xAA55
)

var (
	gptVMFS      = [16]byte{0x2a, 0xe0, 0x31, 0xaa, 0x0f, 0x40, 0xdb, 0x11, 0x95, 0x90, 0x00, 0x0c, 0x29, 0x11, 0xd1, 0xb8}
	gptVMFSPlain = [16]byte{0xaa, 0x31, 0xe0, 0x2a, 0x40, 0x0f, 0x11, 0xdb, 0x95, 0x90, 0x00, 0x0c, 0x29, 0x11, 0xd1, 0xb8}
)

// partitions returns where VMFS may be on a device: everything if it has no partition
// table.
func (d *Device) partitions() ([]Partition, error) {
	whole := []Partition{{SizeBytes: d.SizeBytes}}
	if d.hasMagic(lvmHeaderAt, lvmMagic) {
		return whole, nil
	}
	var b [disk.SectorSize]byte
	if err := d.readFull(b[:], 0, "first sector"); err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint16(b[510:]) != mbrSignature {
		return whole, nil
	}
	var found []Partition
	for i := range mbrSlots {
		e := fields(b[mbrTableAt+i*mbrEntry:][:mbrEntry])
		switch e.u8(4) {
		case mbrGPT:
			return d.gptPartitions()
		case mbrVMFS:
			p := Partition{Table: "mbr", Slot: i, OffsetBytes: int64(e.u32(8)) * disk.SectorSize, SizeBytes: int64(e.u32(12)) * disk.SectorSize}
			if p.OffsetBytes == 0 || p.OffsetBytes >= d.SizeBytes {
				return nil, d.fail(disk.ErrCorrupt, fmt.Sprintf("partition %d", i+1), mbrTableAt+int64(i)*mbrEntry, "begins at %d, the device has %d bytes", p.OffsetBytes, d.SizeBytes)
			}
			p.SizeBytes = min(p.SizeBytes, d.SizeBytes-p.OffsetBytes)
			found = append(found, p)
		}
	}
	if len(found) == 0 && d.hasMagic(headerAt, fsMagic) { // what looks like a table is not one
		return whole, nil
	}
	return found, nil
}

func (d *Device) hasMagic(off int64, magic uint32) bool {
	var b [4]byte
	return d.readFull(b[:], off, "magic") == nil && binary.LittleEndian.Uint32(b[:]) == magic
}

// gptPartitions reads a GPT on a device with sectors of 512 or of 4096 bytes.
func (d *Device) gptPartitions() ([]Partition, error) {
	for _, sector := range []int64{disk.SectorSize, 4096} {
		all, err := gpt.Read(d.R, d.SizeBytes, sector)
		if errors.Is(err, gpt.ErrNone) {
			continue
		}
		var found []Partition
		for _, p := range all {
			if p.Type == gptVMFS || p.Type == gptVMFSPlain {
				err = errors.Join(err, p.Err)
				found = append(found, Partition{Table: "gpt", Slot: p.Number - 1, OffsetBytes: p.OffsetBytes, SizeBytes: p.SizeBytes})
			}
		}
		if fe, ok := errors.AsType[*disk.FormatError](err); ok {
			fe.File = d.Name
		}
		return found, err
	}
	return nil, d.fail(disk.ErrCorrupt, "GPT header", disk.SectorSize, "the MBR says that there is one, but there is none")
}
