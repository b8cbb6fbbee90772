// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"fmt"
	"io/fs"
)

// grainSink takes whole grains in ascending order. data holds consecutive
// grains from the grain first on; it is the caller's again on return. Zero
// grains may be among them.
type grainSink interface {
	writeGrains(first int64, data []byte) error
}

// grainMerger makes whole grains of writes that come in ascending order and
// end anywhere. What is not written of a grain is zero.
type grainMerger struct {
	sink     grainSink
	capacity int64  // bytes
	pos      int64  // end of the last write
	part     []byte // one grain being put together
	partOf   int64  // its number, -1 if there is none
	err      error  // the first error; nothing is taken after it
}

func newGrainMerger(sink grainSink, capacitySectors int64) *grainMerger {
	return &grainMerger{sink: sink, capacity: capacitySectors * sparseHeaderSize, partOf: -1}
}

// WriteAt takes p for the offset off.
func (m *grainMerger) WriteAt(p []byte, off int64) (int, error) {
	if m.err == nil {
		m.err = m.write(p, off)
	}
	if m.err != nil {
		return 0, m.err
	}
	return len(p), nil
}

func (m *grainMerger) write(p []byte, off int64) error {
	if off < m.pos {
		return fmt.Errorf("write at %d after one up to %d: this format takes ascending writes only: %w", off, m.pos, fs.ErrInvalid)
	}
	if off > m.capacity || int64(len(p)) > m.capacity-off {
		return fmt.Errorf("write of %d bytes at %d: the disk has only %d bytes: %w", len(p), off, m.capacity, fs.ErrInvalid)
	}
	m.pos = off + int64(len(p))
	for len(p) > 0 {
		n, err := m.step(p, off)
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// step takes bytes of p up to the end of a grain, or all whole grains that p
// starts with, and returns how many it took.
func (m *grainMerger) step(p []byte, off int64) (int, error) {
	grain, inGrain := off/GrainBytes, int(off%GrainBytes)
	if m.partOf != grain {
		if err := m.flush(); err != nil {
			return 0, err
		}
	}
	if n := len(p) / GrainBytes * GrainBytes; inGrain == 0 && n > 0 {
		return n, m.sink.writeGrains(grain, p[:n])
	}
	if m.partOf < 0 {
		if m.part == nil {
			m.part = make([]byte, GrainBytes)
		}
		clear(m.part)
		m.partOf = grain
	}
	return copy(m.part[inGrain:], p), nil
}

// flush hands on the grain being put together.
func (m *grainMerger) flush() error {
	if m.partOf < 0 {
		return nil
	}
	grain := m.partOf
	m.partOf = -1
	return m.sink.writeGrains(grain, m.part)
}

// finish hands on what is left and returns the first error of all writes.
func (m *grainMerger) finish() error {
	if m.err == nil {
		m.err = m.flush()
	}
	return m.err
}
