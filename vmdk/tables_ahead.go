// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"context"

	"github.com/vmstream/vmstream/disk"
)

// Where tables lie apart, as in redo logs, so many are read at a time, in batches.
const (
	tableReaders = 8
	tablesABatch = 8
)

// tableBatch is some tables that are being read.
type tableBatch struct {
	indexes []int64
	tables  []grainTable
	err     error // of the table behind them
	done    chan struct{}
}

// read reads the tables, and is done early if ctx is.
func (b *tableBatch) read(ctx context.Context, g *grainExtent) {
	defer close(b.done)
	b.tables = make([]grainTable, 0, len(b.indexes))
	for _, i := range b.indexes {
		if b.err = ctx.Err(); b.err != nil {
			return
		}
		t, err := g.table(i)
		if err != nil {
			b.err = err
			return
		}
		b.tables = append(b.tables, t)
	}
}

// eachTable calls do with the tables that exist, in order, and returns the first error.
func (g *grainExtent) eachTable(ctx context.Context, do func(i int64, t grainTable) error) error {
	if g.scattered {
		return g.eachTableAhead(ctx, do)
	}
	for i := range g.dir.all {
		if err := ctx.Err(); err != nil {
			return err
		}
		t, err := g.table(i)
		if err != nil {
			return err
		}
		if err := do(i, t); err != nil {
			return err
		}
	}
	return nil
}

func (g *grainExtent) eachTableAhead(ctx context.Context, do func(i int64, t grainTable) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var ahead []*tableBatch
	defer func() {
		cancel()
		for _, b := range ahead {
			<-b.done // the file may be closed when this has returned
		}
	}()
	for next := g.dir.next(0); ; {
		for len(ahead) < tableReaders && next < g.dir.n {
			b := &tableBatch{done: make(chan struct{})}
			for ; next < g.dir.n && len(b.indexes) < tablesABatch; next = g.dir.next(next + 1) {
				b.indexes = append(b.indexes, next)
				disk.Prefetch(g.src.r, int64(g.dir.at(next))*disk.SectorSize, g.tableFileBytes)
			}
			ahead = append(ahead, b)
			go b.read(ctx, g)
		}
		if len(ahead) == 0 {
			return nil
		}
		b := ahead[0]
		<-b.done
		for k, t := range b.tables {
			if err := do(b.indexes[k], t); err != nil {
				return err
			}
		}
		if b.err != nil {
			return b.err
		}
		ahead = ahead[1:]
	}
}
