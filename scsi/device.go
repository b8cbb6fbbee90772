// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Device is a LUN that takes commands. It is safe for concurrent use, except that Close
// comes last.
type Device struct {
	name string
	port Port
}

// NewDevice returns the device behind a port and takes the port over. The name is for
// messages.
func NewDevice(name string, p Port) *Device { return &Device{name: name, port: p} }

// Name returns the name of the device's node.
func (d *Device) Name() string { return d.name }

// Close closes the port. Reservations stay.
func (d *Device) Close() error { return d.port.Close() }

// attentions is how often a command is repeated that was answered with a unit
// attention: a device may have several to tell, each once for each host.
const attentions = 8

// busyWait is how long a device may say that it is busy.
const busyWait = 5 * time.Second

// run has the device carry out a command, and returns how many bytes went over. It
// repeats the command if the device only had something to tell.
func (d *Device) run(ctx context.Context, c *Command) (int, error) {
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	for told, since := 0, time.Now(); ; {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		r, err := d.port.Execute(ctx, c)
		if err != nil {
			return 0, fmt.Errorf("%s: %s: %w", d.name, c.Name, err)
		}
		moved := min(max(r.Moved, 0), len(c.In)+len(c.Out))
		err = d.failure(c, &r)
		switch {
		case errors.Is(err, ErrAttention) && told < attentions:
			told++
		case errors.Is(err, ErrBusy) && time.Since(since) < busyWait:
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		default:
			return moved, err
		}
	}
}

// failure returns what is to be said of a result, nil if the command was carried out.
func (d *Device) failure(c *Command, r *Result) error {
	e := &CommandError{Device: d.name, Command: c.Name, Status: r.Status}
	switch r.Status {
	case StatusGood, StatusConditionMet:
		return nil
	case StatusCheckCondition:
		e.Sense, _ = ParseSense(r.Sense) // none is no sense
		if !e.Sense.Deferred && (e.Sense.Key == RecoveredError || e.Sense.Key == Completed) {
			return nil
		}
	}
	return e
}

// ask has the device answer a command, and returns the answer, which has at least least
// bytes.
func (d *Device) ask(ctx context.Context, name string, cdb []byte, room, least int) ([]byte, error) {
	c := Command{Name: name, CDB: cdb, In: make([]byte, room)}
	n, err := d.run(ctx, &c)
	if err != nil {
		return nil, err
	}
	if n < least {
		return nil, d.answerError(name, "%d bytes, where there are %d at least", n, least)
	}
	return c.In[:n], nil
}

// TestReady fails if the device does not take commands for its medium: ErrNotReady, or
// ErrReserved if another host has reserved it.
func (d *Device) TestReady(ctx context.Context) error {
	_, err := d.run(ctx, &Command{Name: "TEST UNIT READY", CDB: make([]byte, 6)})
	return err
}

// Reset resets the device. It breaks a reservation that any host has by RESERVE(6), and
// ends commands of all hosts that are under way; persistent reservations stay.
func (d *Device) Reset(ctx context.Context, s Scope) error {
	if err := d.port.Reset(ctx, s); err != nil {
		return fmt.Errorf("%s: reset: %w", d.name, err)
	}
	return nil
}

// Capacity is the size of a disk.
type Capacity struct {
	Blocks     uint64 `json:"blocks"`
	BlockBytes int64  `json:"block_bytes"`
	// Thin says that blocks may hold nothing; ZeroIfUnmapped that such blocks read as
	// zeros. Both are LBPME and LBPRZ of the standard.
	Thin           bool `json:"thin"`
	ZeroIfUnmapped bool `json:"zero_if_unmapped"`
}

// SizeBytes returns the size in bytes.
func (c Capacity) SizeBytes() int64 { return int64(c.Blocks) * c.BlockBytes }

// maxBlock is the largest block that disks have.
const maxBlock = 1 << 20

// Capacity returns the size of a disk, by READ CAPACITY(16), or (10) if the device does
// not know that.
func (d *Device) Capacity(ctx context.Context) (Capacity, error) {
	const name = "READ CAPACITY(16)"
	cdb := [16]byte{0: 0x9e, 1: 0x10, 13: 32}
	b, err := d.ask(ctx, name, cdb[:], 32, 12)
	if errors.Is(err, ErrUnsupported) {
		return d.capacity10(ctx)
	}
	if err != nil {
		return Capacity{}, err
	}
	c := Capacity{Blocks: binary.BigEndian.Uint64(b) + 1, BlockBytes: int64(binary.BigEndian.Uint32(b[8:]))}
	bits := byteAt(b, 14)
	c.Thin = bits&0x80 != 0
	c.ZeroIfUnmapped = c.Thin && bits&0x40 != 0
	return c, d.checkCapacity(name, c)
}

func (d *Device) capacity10(ctx context.Context) (Capacity, error) {
	const name = "READ CAPACITY(10)"
	cdb := [10]byte{0x25}
	b, err := d.ask(ctx, name, cdb[:], 8, 8)
	if err != nil {
		return Capacity{}, err
	}
	c := Capacity{Blocks: uint64(binary.BigEndian.Uint32(b)) + 1, BlockBytes: int64(binary.BigEndian.Uint32(b[4:]))}
	return c, d.checkCapacity(name, c)
}

// checkCapacity fails for sizes that no disk has. 64-bit arithmetic holds for the rest.
func (d *Device) checkCapacity(command string, c Capacity) error {
	switch {
	case c.BlockBytes < 256 || c.BlockBytes > maxBlock:
		return d.answerError(command, "blocks of %d bytes", c.BlockBytes)
	case c.Blocks == 0 || c.Blocks > 1<<62/uint64(c.BlockBytes):
		return d.answerError(command, "%d blocks of %d bytes", c.Blocks, c.BlockBytes)
	}
	return nil
}
