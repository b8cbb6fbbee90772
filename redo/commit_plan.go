// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"context"
	"errors"
	"os"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// measure counts what is going to be written, and the space that it needs.
func (m *merge) measure(ctx context.Context) (err error) {
	child, err := m.chain.openLink(m.index, m.o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, child.Close()) }()
	parent, err := m.chain.openLink(m.index-1, m.o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, parent.Close()) }()
	if err := child.Check(ctx); err != nil {
		return err
	}
	g := newGrowth(parent)
	n := &m.done
	n.Runs, n.DataBytes, n.ZeroBytes = 0, 0, 0
	for r, err := range child.Runs(0, child.Size()) {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		switch r.Kind {
		case disk.Parent:
			continue
		case disk.Data:
			n.DataBytes += r.Length
		default:
			n.ZeroBytes += r.Length
		}
		n.Runs++
		if err := g.add(r); err != nil {
			return err
		}
	}
	if n.NeedBytes, err = g.most(); err != nil {
		return err
	}
	n.FreeBytes = freeBytes(m.parent().path)
	return nil
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
