// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// copyBytes is the largest piece that is read and written at once.
const copyBytes = 4 << 20

// target is an extent of the parent that takes what is written to it.
type target struct {
	start, end int64 // on the disk
	file       File
	name       string
	offset     int64         // of a flat extent in its file
	update     *vmdk.Updater // nil if it is flat
}

func isSparse(t *target) bool { return t.update != nil }

func (t *target) writeAt(p []byte, off int64) error {
	var err error
	if t.update != nil {
		_, err = t.update.WriteAt(p, off-t.start)
	} else {
		_, err = t.file.WriteAt(p, t.offset+off-t.start)
	}
	return err
}

// reachable refuses a child that has something where its parent takes nothing,
// before a journal says that the commit has begun.
func (m *merge) reachable(targets []*target) error {
	for _, t := range targets {
		if t.file != nil {
			continue
		}
		for r, err := range m.link.Runs(t.start, t.end-t.start) {
			if err != nil {
				return err
			}
			if r.Kind != disk.Parent {
				return &disk.FormatError{File: t.name, Field: "extent", Offset: -1, Err: disk.ErrUnsupported, Detail: "it is read only or stores nothing, and the child has something there"}
			}
		}
	}
	return nil
}

// finish makes everything durable.
func (t *target) finish() error {
	switch {
	case t.file == nil:
		return nil
	case t.update != nil:
		return t.update.Close()
	}
	return t.file.Sync()
}

// copy writes what the child has into the parent. It can be done again: what
// the child has hides what becomes of the same places in the parent.
func (m *merge) copy(ctx context.Context) (err error) {
	below, err := m.below()
	if err != nil {
		return err
	}
	if below != nil {
		defer func() { err = errors.Join(err, below.Close()) }()
	}
	targets, err := m.targets(ctx, below)
	defer func() {
		for _, t := range targets {
			if t.file != nil {
				err = errors.Join(err, t.file.Close())
			}
		}
	}()
	if err != nil {
		return err
	}
	if err := m.reachable(targets); err != nil {
		return err
	}
	// Which extents have two copies of their tables is not to be seen any more
	// when a writer has been interrupted.
	for _, t := range targets {
		if t.update != nil && t.update.Redundant() && !m.redundant(t) {
			m.journal.Redundant = append(m.journal.Redundant, m.journal.rel(t.name))
		}
	}
	if err := m.journal.put(m.o.FS, phaseCopy); err != nil {
		return err
	}
	sum, err := m.transfer(ctx, targets)
	if err != nil {
		return err
	}
	for _, t := range targets {
		if err := t.finish(); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	if !slices.ContainsFunc(targets, isSparse) {
		return nil // what was written where it belongs reads as it was written
	}
	return m.verify(ctx, sum, targets)
}

// below opens the content below the parent, nil if the parent is the base.
func (m *merge) below() (*vmdk.Disk, error) {
	if m.index == 1 {
		return nil, nil
	}
	return m.chain.openLevel(m.index-2, m.o)
}

// targets opens the extents of the parent for writing. What has been opened
// comes back also if there is an error.
func (m *merge) targets(ctx context.Context, below *vmdk.Disk) ([]*target, error) {
	link, err := m.chain.openLink(m.index-1, m.o)
	if err != nil {
		return nil, err
	}
	info, desc := link.Info(), link.Descriptor()
	if err := link.Close(); err != nil {
		return nil, err
	}
	var targets []*target
	at := int64(0)
	for i, e := range info.Extents {
		t := &target{start: at, end: at + e.SizeBytes, name: e.Path, offset: e.OffsetBytes}
		at = t.end
		if t.name == "" {
			t.name = info.Path
		}
		targets = append(targets, t)
		if e.Path == "" || desc != nil && desc.Extents[i].Access != vmdk.AccessRW {
			continue
		}
		var fill io.ReaderAt
		if below != nil {
			fill = io.NewSectionReader(below, t.start, e.SizeBytes)
		}
		if err := m.openTarget(ctx, t, e, fill); err != nil {
			return targets, err
		}
	}
	return targets, nil
}

func (m *merge) openTarget(ctx context.Context, t *target, e vmdk.ExtentInfo, fill io.ReaderAt) error {
	st, err := os.Stat(t.name)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return &disk.FormatError{File: t.name, Offset: -1, Err: disk.ErrUnsupported, Detail: "a redo log is not committed to a device"}
	}
	if t.file, err = m.o.FS.Open(t.name); err != nil {
		return err
	}
	if e.GrainBytes == 0 {
		return nil
	}
	t.update, err = vmdk.OpenUpdate(ctx, t.file, vmdk.UpdateSpec{
		Name: t.name, FileBytes: st.Size(), SizeBytes: e.SizeBytes, Fill: fill,
		Redundant: m.redundant(t),
	})
	return err
}

// redundant reports if the journal has noted that an extent has two copies of
// its tables.
func (m *merge) redundant(t *target) bool {
	return slices.Contains(m.journal.Redundant, m.journal.rel(t.name))
}

// pieces yields what the child has in pieces of at most copyBytes that do not
// cross the ends of extents.
func (m *merge) pieces(ctx context.Context, targets []*target) iter.Seq2[disk.Run, error] {
	return func(yield func(disk.Run, error) bool) {
		i := 0
		for r, err := range m.written() {
			for err == nil && r.Length > 0 {
				for r.Offset >= targets[i].end {
					i++
				}
				p := r
				p.Length = min(r.Length, copyBytes, targets[i].end-r.Offset)
				if err = ctx.Err(); err == nil && !yield(p, nil) {
					return
				}
				r.Offset, r.Length = p.End(), r.Length-p.Length
			}
			if err != nil {
				yield(disk.Run{}, err)
				return
			}
		}
	}
}

// block is a piece of the disk on its way from the child to the parent.
type block struct {
	disk.Run
	data []byte
}

// transfer writes everything that the child has, in ascending order, and
// returns a checksum of it if it is to be verified. One block is read while
// another is written.
func (m *merge) transfer(ctx context.Context, targets []*target) (sum uint32, err error) {
	g, ctx := errgroup.WithContext(ctx)
	blocks, free := make(chan block), make(chan []byte, 2)
	for range cap(free) {
		free <- make([]byte, min(copyBytes, m.link.Size()))
	}
	g.Go(func() error {
		defer close(blocks)
		return m.readBlocks(ctx, targets, blocks, free)
	})
	g.Go(func() error {
		table, i := crc32.MakeTable(crc32.Castagnoli), 0
		check := slices.ContainsFunc(targets, isSparse)
		for b := range blocks {
			if check {
				sum = crc32.Update(sum, table, b.data)
			}
			for b.Offset >= targets[i].end {
				i++
			}
			if err := targets[i].writeAt(b.data, b.Offset); err != nil {
				return err
			}
			free <- b.data[:cap(b.data)] // has room: there are no more buffers
		}
		return nil
	})
	err = g.Wait()
	return sum, err
}

func (m *merge) readBlocks(ctx context.Context, targets []*target, blocks chan<- block, free <-chan []byte) error {
	for r, err := range disk.Ahead(m.link, m.pieces(ctx, targets)) {
		if err != nil {
			return err
		}
		b := block{Run: r}
		select {
		case b.data = <-free:
		case <-ctx.Done():
			return ctx.Err()
		}
		b.data = b.data[:r.Length]
		if r.Kind == disk.Data {
			if err := disk.ReadFull(m.link, b.data, r.Offset); err != nil {
				return err
			}
		} else {
			clear(b.data)
		}
		select {
		case blocks <- b:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// verify reads back what was written, through the tables that lead to it now,
// before anything depends on it.
func (m *merge) verify(ctx context.Context, want uint32, targets []*target) (err error) {
	parent, err := m.chain.openLink(m.index-1, m.o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, parent.Close()) }()
	b := make([]byte, min(copyBytes, parent.Size()))
	table, sum := crc32.MakeTable(crc32.Castagnoli), uint32(0)
	for r, err := range disk.Ahead(parent, m.pieces(ctx, targets)) {
		if err == nil {
			err = disk.ReadFull(parent, b[:r.Length], r.Offset)
		}
		if err != nil {
			return err
		}
		sum = crc32.Update(sum, table, b[:r.Length])
	}
	if sum != want {
		return &disk.FormatError{File: m.parent().path, Field: "content", Offset: -1, Err: disk.ErrCorrupt, Detail: "does not read as it was written"}
	}
	return nil
}
