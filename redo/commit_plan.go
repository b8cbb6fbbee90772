// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"context"
	"errors"
	"iter"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// mostRuns is how many runs are remembered: 3 MiB. The tables of a child with
// more are walked through anew each time.
const mostRuns = 1 << 17

// measure opens the child and counts what is going to be written, and the
// space that it needs.
func (m *merge) measure(ctx context.Context) (err error) {
	if m.link, err = m.chain.openLink(m.index, m.o); err != nil {
		return err
	}
	parent, err := m.chain.openLink(m.index-1, m.o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, parent.Close()) }()
	if m.link.Size() != parent.Size() {
		return chainError(m.child().path, disk.ErrMismatch, "its capacity is %d bytes, that of its parent %d", m.link.Size(), parent.Size())
	}
	// Both walk through the same tables, which they load for each other.
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.Go(func() error { return m.link.Check(ctx) })
	tasks.Go(func() error { return m.count(ctx, newGrowth(parent)) })
	if err := tasks.Wait(); err != nil {
		return err
	}
	m.done.FreeBytes = -1
	if free, ok := disk.FreeBytes(m.parent().path); ok {
		m.done.FreeBytes = free
	}
	return nil
}

// count goes through what the child has.
func (m *merge) count(ctx context.Context, g *growth) (err error) {
	n := &m.done
	n.Runs, n.DataBytes, n.ZeroBytes = 0, 0, 0
	for r, err := range m.written() {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		if r.Kind == disk.Data {
			n.DataBytes += r.Length
		} else {
			n.ZeroBytes += r.Length
		}
		n.Runs++
		if n.Runs <= mostRuns {
			m.runs = append(m.runs, r)
		}
		if err := g.add(r); err != nil {
			return err
		}
	}
	if n.Runs > mostRuns {
		m.runs = nil
	}
	n.NeedBytes, err = g.most()
	return err
}

// written yields what the child has, in ascending order.
func (m *merge) written() iter.Seq2[disk.Run, error] {
	return func(yield func(disk.Run, error) bool) {
		if m.runs != nil && int64(len(m.runs)) == m.done.Runs {
			for _, r := range m.runs {
				if !yield(r, nil) {
					return
				}
			}
			return
		}
		for r, err := range m.link.Runs(0, m.link.Size()) {
			if (err != nil || r.Kind != disk.Parent) && !yield(r, err) {
				return
			}
		}
	}
}

// growth sums up how much the files of a level grow when ranges of the disk
// are written to it in ascending order.
type growth struct {
	parent *vmdk.Link
	unit   int64 // bytes that are stored at once
	sparse bool
	end    int64 // of what has been looked at
	bytes  int64
	tables int64 // that ranges touch, each 2 MiB of disk or more

	nextTable int64 // the first that has not been counted
}

const (
	// flatUnit is a block of a file system, for the holes of a thin file.
	flatUnit = 4096
	// The smallest grain tables that a level can have take most of its disk.
	tableCoverage  = 2 << 20
	mostTableBytes = 16 << 10
)

func newGrowth(parent *vmdk.Link) *growth {
	g := &growth{parent: parent, unit: flatUnit}
	for _, e := range parent.Info().Extents {
		g.unit = max(g.unit, e.GrainBytes)
		g.sparse = g.sparse || e.GrainBytes > 0
	}
	return g
}

func (g *growth) add(r disk.Run) error {
	from := max(r.Offset/g.unit*g.unit, g.end)
	to := min((r.End()+g.unit-1)/g.unit*g.unit, g.parent.Size())
	if from >= to {
		return nil
	}
	first, last := max(from/tableCoverage, g.nextTable), (to-1)/tableCoverage
	g.tables += last - first + 1
	g.end, g.nextTable = to, last+1
	for p, err := range g.parent.Runs(from, to-from) {
		if err != nil {
			return err
		}
		if p.Kind != disk.Data {
			g.bytes += p.Length
		}
	}
	return nil
}

// most returns an upper bound of the growth in bytes.
func (g *growth) most() (int64, error) {
	if g.sparse {
		return g.bytes + g.tables*mostTableBytes + 1<<16, nil // and what fills the file up
	}
	var holes int64 // space that was reserved is no growth
	for _, e := range g.parent.Info().Extents {
		if e.Path == "" {
			continue
		}
		st, err := os.Stat(e.Path)
		if err != nil {
			return 0, err
		}
		holes += max(st.Size()-diskBytes(st), 0)
	}
	return min(g.bytes, holes), nil
}
