// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi

import (
	"context"
	"encoding/binary"
	"fmt"
)

// BlockState says if blocks of a thin LUN hold anything.
type BlockState byte

// The states of blocks.
const (
	Mapped      BlockState = 0
	Deallocated BlockState = 1 // holds nothing, and has no room
	Anchored    BlockState = 2 // holds nothing, and has room
)

// String returns the state in a word.
func (s BlockState) String() string {
	switch s {
	case Mapped:
		return "mapped"
	case Deallocated:
		return "deallocated"
	case Anchored:
		return "anchored"
	}
	return fmt.Sprintf("state %d", byte(s))
}

// BlockRange is a range of blocks with one state.
type BlockRange struct {
	LBA    uint64
	Blocks uint64
	State  BlockState
}

// statusRoom is how much of an answer to GET LBA STATUS is taken at a time: 255 ranges.
const statusRoom = 8 + 16*255

// LBAStatus asks which blocks hold something, from one on. It returns ranges in
// ascending order and without gaps, the first of which begins at lba; at least one, and
// as many as the device tells at a time: go on behind the last. Devices that do not
// know the command give ErrUnsupported.
func (d *Device) LBAStatus(ctx context.Context, lba uint64) ([]BlockRange, error) {
	const name = "GET LBA STATUS"
	cdb := make([]byte, 16)
	cdb[0], cdb[1] = 0x9e, 0x12
	binary.BigEndian.PutUint64(cdb[2:], lba)
	binary.BigEndian.PutUint32(cdb[10:], statusRoom)
	b, err := d.ask(ctx, name, cdb, statusRoom, 24)
	if err != nil {
		return nil, err
	}
	b = b[8:max(8, min(int64(len(b)), 4+int64(binary.BigEndian.Uint32(b))))]
	ranges, err := parseLBAStatus(b, lba)
	if err != nil {
		return nil, d.answerError(name, "%v", err)
	}
	return ranges, nil
}

// parseLBAStatus reads ranges. The first may begin before lba, and is cut off.
func parseLBAStatus(b []byte, lba uint64) ([]BlockRange, error) {
	var all []BlockRange
	for next := lba; len(b) >= 16; b = b[16:] {
		r := BlockRange{LBA: binary.BigEndian.Uint64(b), Blocks: uint64(binary.BigEndian.Uint32(b[8:])), State: BlockState(b[12] & 15)}
		end := r.LBA + r.Blocks
		switch {
		case r.Blocks == 0 || end < r.LBA:
			return nil, fmt.Errorf("a range of %d blocks at %d", r.Blocks, r.LBA)
		case r.LBA > next || end <= next || len(all) > 0 && r.LBA != next:
			return nil, fmt.Errorf("a range of blocks %d to %d, where one at %d was to come", r.LBA, end, next)
		}
		r.LBA, r.Blocks = next, end-next
		all = append(all, r)
		next = end
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no range that has block %d", lba)
	}
	return all, nil
}

// Unmap has blocks hold nothing any more, by UNMAP. What they read as then is told by
// [Capacity]. The device may leave some of them as they are.
func (d *Device) Unmap(ctx context.Context, lba, blocks uint64, l Limits) error {
	if !l.Unmap || l.MaxUnmapBlocks == 0 {
		return fmt.Errorf("%s: UNMAP: %w", d.name, ErrUnsupported)
	}
	for blocks > 0 {
		n := min(blocks, uint64(l.MaxUnmapBlocks))
		out := make([]byte, 24)
		binary.BigEndian.PutUint16(out, 22)
		binary.BigEndian.PutUint16(out[2:], 16)
		binary.BigEndian.PutUint64(out[8:], lba)
		binary.BigEndian.PutUint32(out[16:], uint32(n)) //nolint:gosec // not above MaxUnmapBlocks
		cdb := []byte{0x42, 0, 0, 0, 0, 0, 0, 0, byte(len(out)), 0}
		if _, err := d.run(ctx, &Command{Name: "UNMAP", CDB: cdb, Out: out}); err != nil {
			return err
		}
		lba, blocks = lba+n, blocks-n
	}
	return nil
}
