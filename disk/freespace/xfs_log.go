// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import "sort"

const (
	xlogBlock   = 512
	xlogMagic   = 0xFEEDBABE
	xlogUnmount = 0x20
	// xlogRecord is how many blocks a record may have, with its headers.
	xlogRecord = (256<<10)/xlogBlock + 8
)

// log refuses a file system that was not unmounted: its log may have what its trees have
// not. The last record of the log of one that was says so.
func (f *xfsFS) log() error {
	ag, n := f.logStart>>f.agBits, f.logStart&(1<<f.agBits-1)
	if ag >= f.ags || n >= f.groupBlocks(ag) || f.logSize == 0 || f.logSize > f.groupBlocks(ag)-n || f.logSize > 1<<22 {
		return refuse("its log has %d blocks at %d of group %d", f.logSize, n, ag)
	}
	l := &xlog{f: f, at: int64(ag*f.agBlocks+n) * f.bs, blocks: int64(f.logSize) * f.bs / xlogBlock}
	head, err := l.head()
	if err != nil || head < 0 {
		return err
	}
	clean, err := l.unmounted(head)
	if err == nil && !clean {
		err = refuse("it was not unmounted: its log may have what its trees have not")
	}
	return err
}

// xlog is a log.
type xlog struct {
	f      *xfsFS
	at     int64 // in the volume
	blocks int64
}

func (l *xlog) block(n int64) ([]byte, error) {
	b := make([]byte, xlogBlock)
	return b, l.f.v.read(b, l.at+n*xlogBlock)
}

// cycle is how many times the log had been filled when a block was written.
func (l *xlog) cycle(n int64) (uint32, error) {
	b, err := l.block(n)
	if err != nil {
		return 0, err
	}
	if c := be.Uint32(b); c != xlogMagic {
		return c, nil
	}
	return be.Uint32(b[4:]), nil
}

// head finds where the next record would be written; -1 if none was ever.
func (l *xlog) head() (int64, error) {
	first, err := l.cycle(0)
	if err != nil {
		return 0, err
	}
	last, err := l.cycle(l.blocks - 1)
	if err != nil {
		return 0, err
	}
	switch {
	case first == 0:
		return 0, refuse("its log was cleared: check it")
	case first == last:
		return 0, nil
	case last != first-1 && last != 0:
		return 0, refuse("its log is of rounds %d and %d", first, last)
	}
	var failed error
	n := sort.Search(int(l.blocks), func(i int) bool {
		c, err := l.cycle(int64(i))
		if err != nil && failed == nil {
			failed = err
		}
		return c != first
	})
	return int64(n), failed
}

// unmounted reports if the last record before the head is that of an unmount.
func (l *xlog) unmounted(head int64) (bool, error) {
	for back := int64(1); back <= min(xlogRecord, l.blocks); back++ {
		at := (head - back + l.blocks) % l.blocks
		b, err := l.block(at)
		if err != nil {
			return false, err
		}
		if be.Uint32(b) != xlogMagic {
			continue
		}
		length, size := int64(be.Uint32(b[12:])), int64(be.Uint32(b[320:]))
		headers := int64(1)
		if be.Uint32(b[8:])&2 != 0 && size > 32<<10 {
			headers = (size + 32<<10 - 1) / (32 << 10)
		}
		if length <= 0 || length > 1<<20 || headers > 8 || (at+headers+(length+xlogBlock-1)/xlogBlock)%l.blocks != head || be.Uint32(b[40:]) != 1 {
			return false, nil
		}
		op, err := l.block((at + headers) % l.blocks)
		if err != nil {
			return false, err
		}
		return op[9]&xlogUnmount != 0, nil
	}
	return false, nil
}
