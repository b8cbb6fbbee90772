// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package library

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	markCost    = 512 // what a filemark takes of the capacity
	bufferBytes = 1 << 20
)

// record is a block, or a filemark if data is nil.
type record struct {
	data []byte
	at   int64 // in the store
}

// Cartridge is a tape. What is on it is kept in a store, if there is one, as SIMH's
// tape images have it; blocks wait in the drive's memory before that, as in a real one,
// until a filemark or until there are many.
type Cartridge struct {
	Name     string
	Capacity int64 // bytes up to the physical end
	Warning  int64 // bytes of the zone before it

	store   Store
	records []record
	used    int64
	end     int64 // of what the store has
	waiting []byte
	home    int // slot
}

// Store is where a cartridge is kept. What was written is there when WriteAt returns.
type Store interface {
	io.ReaderAt
	io.WriterAt
}

// endMark follows the last record in a store; nothing behind it counts.
var endMark = []byte{0xff, 0xff, 0xff, 0xff}

// NewCartridge returns what a store has, or a blank cartridge if it is nil or has
// nothing but zeros.
func NewCartridge(name string, capacity, warning int64, store Store) (*Cartridge, error) {
	c := &Cartridge{Name: name, Capacity: capacity, Warning: warning, store: store}
	if store == nil {
		return c, nil
	}
	var first [16]byte
	if _, err := store.ReadAt(first[:], 0); err != nil {
		return nil, err
	}
	if first == [16]byte{} {
		_, err := store.WriteAt(endMark, 0)
		return c, err
	}
	return c, c.scan()
}

// scan reads the store up to the end mark, or to where the power failed.
func (c *Cartridge) scan() error {
	for {
		n, err := c.length(c.end)
		if err != nil || n > maxBlock {
			return err
		}
		r := record{at: c.end}
		next := c.end + 4
		if n > 0 {
			r.data = make([]byte, n)
			if _, err := c.store.ReadAt(r.data, next); err != nil {
				return fmt.Errorf("%s: %w", c.Name, err)
			}
			next += n + n&1
			again, err := c.length(next)
			if err != nil || again != n {
				return err
			}
			next += 4
		}
		c.records, c.end, c.used = append(c.records, r), next, c.used+r.cost()
	}
}

func (c *Cartridge) length(at int64) (int64, error) {
	var b [4]byte
	if _, err := c.store.ReadAt(b[:], at); err != nil {
		return 0, fmt.Errorf("%s: %w", c.Name, err)
	}
	return int64(binary.LittleEndian.Uint32(b[:])), nil
}

func (r *record) cost() int64 {
	if r.data == nil {
		return markCost
	}
	return int64(len(r.data))
}

// fits reports if so much more does.
func (c *Cartridge) fits(n int64) bool { return c.used+n <= c.Capacity }

// warned reports if the tape is in the zone before its end.
func (c *Cartridge) warned() bool { return c.used > c.Capacity-c.Warning }

// truncate drops everything from record n on, as writing there does.
func (c *Cartridge) truncate(n int) {
	if n == len(c.records) {
		return
	}
	for _, r := range c.records[n:] {
		c.used -= r.cost()
	}
	if at := c.records[n].at; at >= c.end {
		c.waiting = c.waiting[:at-c.end]
	} else {
		c.end, c.waiting = at, c.waiting[:0]
	}
	c.records = c.records[:n]
}

// append adds a record. It is in the store after the next flush.
func (c *Cartridge) append(data []byte) {
	r := record{data: data, at: c.end + int64(len(c.waiting))}
	c.records, c.used = append(c.records, r), c.used+r.cost()
	if c.store == nil {
		return
	}
	length := binary.LittleEndian.AppendUint32(nil, uint32(len(data))) //nolint:gosec // a block's
	c.waiting = append(c.waiting, length...)
	if data != nil {
		c.waiting = append(c.waiting, data...)
		c.waiting = append(c.waiting, make([]byte, len(data)&1)...)
		c.waiting = append(c.waiting, length...)
	}
}

// flush writes what waits to the store. less says that some may wait.
func (c *Cartridge) flush(less bool) error {
	if c.store == nil || len(c.waiting) == 0 || less && len(c.waiting) < bufferBytes {
		return nil
	}
	_, err := c.store.WriteAt(append(c.waiting, endMark...), c.end)
	c.end += int64(len(c.waiting))
	c.waiting = c.waiting[:0]
	return err
}

// Region is a part of a store.
type Region struct {
	Store     Store
	At, Bytes int64
}

var errRegion = errors.New("behind the end of the region")

// ReadAt reads from the region.
func (r Region) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > r.Bytes {
		return 0, errRegion
	}
	return r.Store.ReadAt(p, r.At+off)
}

// WriteAt writes to the region.
func (r Region) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > r.Bytes {
		return 0, errRegion
	}
	return r.Store.WriteAt(p, r.At+off)
}
