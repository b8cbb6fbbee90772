// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// scatteredExtent has a table for every third entry of its directory. A table names
// its own number; reading those that are told fails.
func scatteredExtent(tables int64, bad ...int64) (g *grainExtent, busy *atomic.Int64) {
	busy = new(atomic.Int64)
	d := &directory{n: 3 * tables, tables: tables, pages: make([][]uint32, divUp(uint64(3*tables), directoryPage))}
	for i := range d.pages {
		d.pages[i] = make([]uint32, directoryPage)
	}
	for i := range tables {
		d.set(3*i, 1)
	}
	load := func(i int64) (grainTable, error) {
		busy.Add(1)
		defer busy.Add(-1)
		for range i * 7 % 11 {
			runtime.Gosched() // some take longer
		}
		if slices.Contains(bad, i) {
			return nil, fmt.Errorf("table %d", i)
		}
		return grainTable{{grains: 1, sector: i + 1}}, nil
	}
	return &grainExtent{src: &source{r: strings.NewReader("")}, shared: newShared(nil), dir: d, entries: 1, grainBytes: 512, scattered: true, loadTable: load}, busy
}

func TestTablesAhead(t *testing.T) {
	const batches = tableReaders*tablesABatch*2 + 3
	for _, tables := range []int64{0, 1, tablesABatch, tablesABatch + 1, batches} {
		g, _ := scatteredExtent(tables)
		var got []int64
		err := g.eachTable(t.Context(), func(i int64, table grainTable) error {
			if table[0].sector != i+1 {
				t.Errorf("table %d has been given as %d", table[0].sector-1, i)
			}
			got = append(got, i)
			return nil
		})
		if err != nil || int64(len(got)) != tables || !slices.IsSorted(got) {
			t.Errorf("%d tables: %v, %v", tables, got, err)
		}
	}
}

// What ends it leaves no reader behind, and is the first in the order of the tables.
func TestTablesAheadEnds(t *testing.T) {
	const tables = tableReaders * tablesABatch * 3
	stop := errors.New("stop")
	for round := range int64(40) {
		g, busy := scatteredExtent(tables, 3*(round+9), 3*(round+2), 3*(round+20))
		seen := int64(0)
		err := g.eachTable(t.Context(), func(int64, grainTable) error { seen++; return nil })
		if err == nil || err.Error() != fmt.Sprintf("table %d", 3*(round+2)) || seen != round+2 || busy.Load() != 0 {
			t.Errorf("bad tables: %v behind %d tables, %d readers", err, seen, busy.Load())
		}
		g, busy = scatteredExtent(tables)
		err = g.eachTable(t.Context(), func(i int64, _ grainTable) error {
			if i == 3*round {
				return stop
			}
			return nil
		})
		if !errors.Is(err, stop) || busy.Load() != 0 {
			t.Errorf("stopped: %v, %d readers", err, busy.Load())
		}
		ctx, cancel := context.WithCancel(t.Context())
		g, busy = scatteredExtent(tables)
		err = g.eachTable(ctx, func(i int64, _ grainTable) error {
			if i == 3*round {
				cancel()
			}
			return nil
		})
		if !errors.Is(err, context.Canceled) || busy.Load() != 0 {
			t.Errorf("cancelled: %v, %d readers", err, busy.Load())
		}
	}
}
