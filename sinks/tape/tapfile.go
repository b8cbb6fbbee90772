// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// A cartridge of a virtual drive is a file in the form of SIMH's tape images: the
// length of a block as four bytes, little-endian, the block, a byte more if the
// length is odd, the length again. A length of 0 is a filemark, and nothing follows it.

const (
	tapMark      = 0
	tapLength    = 4
	maxTapBlock  = 16 << 20
	maxTapBlocks = 8 << 20 // so that the index stays below some hundred MiB
	markCost     = 512     // what a filemark takes of the capacity
)

// tapBlock is a block or, with length 0, a filemark.
type tapBlock struct {
	offset int64 // in the file, of the first length
	length int32
}

// stored is how many bytes of the file it takes.
func (b tapBlock) stored() int64 {
	if b.length == tapMark {
		return tapLength
	}
	return 2*tapLength + int64(b.length) + int64(b.length)&1
}

// cost is how much of the tape it takes.
func (b tapBlock) cost() int64 {
	if b.length == tapMark {
		return markCost
	}
	return int64(b.length)
}

// tapFile is an open cartridge.
type tapFile struct {
	f      *os.File
	blocks []tapBlock
	end    int64 // offset where the next block goes
	used   int64 // of the capacity
}

// openTap opens a cartridge and finds its blocks. What is behind the last whole one,
// as a loss of power leaves it, is not there.
func openTap(path string, writing bool) (*tapFile, error) {
	mode := os.O_RDONLY
	if writing {
		mode = os.O_RDWR
	}
	f, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return nil, err
	}
	t := &tapFile{f: f}
	if err := t.scan(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return t, nil
}

func (t *tapFile) scan() error {
	st, err := t.f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("it is no regular file: %w", fs.ErrInvalid)
	}
	for {
		length, ok, err := t.lengthAt(t.end)
		if err != nil {
			return err
		}
		b := tapBlock{offset: t.end, length: int32(min(length, maxTapBlock+1))} //nolint:gosec // bounded
		if !ok || length > maxTapBlock || t.end+b.stored() > st.Size() {
			return nil
		}
		if length != tapMark {
			again, ok, err := t.lengthAt(t.end + b.stored() - tapLength)
			if err != nil {
				return err
			}
			if !ok || again != length {
				return nil
			}
		}
		if len(t.blocks) == maxTapBlocks {
			return fmt.Errorf("more than %d blocks", maxTapBlocks)
		}
		t.add(b)
	}
}

func (t *tapFile) add(b tapBlock) {
	t.blocks = append(t.blocks, b)
	t.end += b.stored()
	t.used += b.cost()
}

// lengthAt reads a length. ok is false if the file ends before.
func (t *tapFile) lengthAt(offset int64) (n int64, ok bool, err error) {
	var p [tapLength]byte
	switch _, err = t.f.ReadAt(p[:], offset); {
	case errors.Is(err, io.EOF):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	}
	return int64(binary.LittleEndian.Uint32(p[:])), true, nil
}

// cut removes everything from block n on.
func (t *tapFile) cut(n int) error {
	if n == len(t.blocks) {
		return nil
	}
	for _, b := range t.blocks[n:] {
		t.used -= b.cost()
	}
	t.end = t.blocks[n].offset
	t.blocks = t.blocks[:n]
	return t.f.Truncate(t.end)
}

// append adds a block, or a filemark if p is empty.
func (t *tapFile) append(p []byte) error {
	if len(t.blocks) == maxTapBlocks {
		return fmt.Errorf("more than %d blocks", maxTapBlocks)
	}
	b := tapBlock{offset: t.end, length: int32(len(p))} //nolint:gosec // the caller has bounded it
	whole := make([]byte, b.stored())
	binary.LittleEndian.PutUint32(whole, uint32(len(p))) //nolint:gosec // the same
	if len(p) > 0 {
		copy(whole[tapLength:], p)
		copy(whole[len(whole)-tapLength:], whole[:tapLength])
	}
	if _, err := t.f.WriteAt(whole, t.end); err != nil {
		return errors.Join(err, t.f.Truncate(t.end))
	}
	t.add(b)
	return nil
}

// load reads as much of a block as fits into p.
func (t *tapFile) load(b tapBlock, p []byte) (int, error) {
	p = p[:min(len(p), int(b.length))]
	return t.f.ReadAt(p, b.offset+tapLength)
}
