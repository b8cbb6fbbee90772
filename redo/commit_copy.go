// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

const (
	copyBytes   = 4 << 20 // the largest piece that is read and written at once
	verifyBytes = 1 << 20 // and read back
)

// target is an extent of the parent that takes what is written to it.
type target struct {
	start, end int64 // on the disk
	file       File
	name       string
	offset     int64         // of a flat extent in its file
	update     *vmdk.Updater // nil if it is flat
}

func (t *target) writeAt(p []byte, off int64) error {
	var err error
	if t.update != nil {
		_, err = t.update.WriteAt(p, off-t.start)
	} else {
		_, err = t.file.WriteAt(p, t.offset+off-t.start)
	}
	return err
}

// reachable refuses a link that has something where its parent takes nothing,
// before a journal says that the commit has begun.
func reachable(link *vmdk.Link, targets []*target) error {
	for _, t := range targets {
		if t.file != nil {
			continue
		}
		for r, err := range link.Runs(t.start, t.end-t.start) {
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
	link, err := m.chain.openLink(m.index, m.o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, link.Close()) }()
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
	if err := reachable(link, targets); err != nil {
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
	if err := transfer(ctx, link, targets); err != nil {
		return err
	}
	for _, t := range targets {
		if err := t.finish(); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return m.verify(ctx, link)
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

// transfer writes everything that a link has, in ascending order.
func transfer(ctx context.Context, link *vmdk.Link, targets []*target) error {
	piece := min(copyBytes, link.Size())
	buf, zeros := make([]byte, piece), make([]byte, piece)
	i := 0
	for r, err := range disk.Merge(link.Runs(0, link.Size())) {
		if err != nil {
			return err
		}
		for r.Kind != disk.Parent && r.Length > 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			for r.Offset >= targets[i].end {
				i++
			}
			n := min(r.Length, piece, targets[i].end-r.Offset)
			b := zeros[:n]
			if r.Kind == disk.Data {
				b = buf[:n]
				if err := disk.ReadFull(link, b, r.Offset); err != nil {
					return err
				}
			}
			if err := targets[i].writeAt(b, r.Offset); err != nil {
				return err
			}
			r.Offset, r.Length = r.Offset+n, r.Length-n
		}
	}
	return nil
}

// verify reads back what was written before anything depends on it.
func (m *merge) verify(ctx context.Context, child *vmdk.Link) (err error) {
	parent, err := m.chain.openLink(m.index-1, m.o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, parent.Close()) }()
	piece := min(verifyBytes, child.Size())
	a, b := make([]byte, piece), make([]byte, piece)
	for r, err := range disk.Merge(child.Runs(0, child.Size())) {
		if err != nil {
			return err
		}
		for r.Kind != disk.Parent && r.Length > 0 {
			n := min(r.Length, piece)
			clear(a[:n])
			if r.Kind == disk.Data {
				err = disk.ReadFull(child, a[:n], r.Offset)
			}
			if err = errors.Join(err, disk.ReadFull(parent, b[:n], r.Offset), ctx.Err()); err != nil {
				return err
			}
			if !bytes.Equal(a[:n], b[:n]) {
				return &disk.FormatError{File: m.parent().path, Field: "content", Offset: -1, Err: disk.ErrCorrupt, Detail: fmt.Sprintf("does not read as it was written, between the bytes %d and %d of the disk", r.Offset, r.Offset+n)}
			}
			r.Offset, r.Length = r.Offset+n, r.Length-n
		}
	}
	return nil
}
