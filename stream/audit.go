// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/vmstream/vmstream/disk"
)

// ErrUntrusted says that something has changed on a disk and what tells its
// changes does not say so.
var ErrUntrusted = errors.New("change tracking cannot be trusted")

// AuditOptions say how much of what is said to be unchanged is looked at.
type AuditOptions struct {
	ID          string // of the backup: it decides which sample is taken
	Share       float64
	Workers     int          // 0: one for each processor
	MemoryBytes int64        // as in Options
	Detail      func(string) // takes what could not be looked at; may be nil
}

// Audit re-reads a sample of what the Changes of disks call unchanged and
// compares it with the parent. It returns how many bytes have been compared;
// an error is ErrUntrusted if anything differs.
//
// Blocks are compared with their digests in the parent: one at random of each
// 1/Share blocks, and at least one of each disk. Where the parent has none, it
// is whole extents with their digests, if the disk is whole in the parent:
// again one of each 1/Share, but none need be, as an extent is long. What is
// zero then and known to be zero now is not part of the sample.
func Audit(ctx context.Context, disks []Disk, parent *Index, o AuditOptions) (int64, error) {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Detail == nil {
		o.Detail = func(string) {}
	}
	var total int64
	for i := range disks {
		d := &disks[i]
		if d.Changes == nil || o.Share <= 0 {
			continue
		}
		n, err := auditDisk(ctx, d, parent, &o)
		if err != nil {
			return total, fmt.Errorf("disk %s: %w", d.Record.Key, err)
		}
		total += n
	}
	return total, nil
}

func auditDisk(ctx context.Context, d *Disk, parent *Index, o *AuditOptions) (int64, error) {
	was, err := parent.Opening.parentOf(&DiskRecord{Key: d.Record.Key, CapacityBytes: d.Image.Size()})
	if err != nil {
		return 0, err
	}
	a := &auditor{opt: o, disk: d, parentID: parent.ID, size: was.Sectors() * disk.SectorSize}
	a.src = packSource{im: &padded{Image: d.Image, size: a.size}}
	a.src.changes = a.src.im
	workers := o.Workers
	switch {
	case d.Was != nil:
		a.ref, a.atLeastOne = &blockReference{d.Was}, true
	case !was.Increment():
		ref := newExtentReference(parent, was, a.size)
		if workers, err = slotCount(workers, o.MemoryBytes, extentRoom(ref.room())); err != nil {
			return 0, err
		}
		a.ref = ref
	default:
		o.Detail(fmt.Sprintf("disk %s: backup %s is an increment without digests of blocks: there is nothing to audit what is unchanged with", was.Key, parent.ID))
		return 0, nil
	}
	return a.run(ctx, workers)
}

// reference is what units of a disk are compared with.
type reference interface {
	unitBytes() int64
	// nextListed returns the first unit from i on that was not zero, or a
	// number that no disk has.
	nextListed(i int64) int64
	// same reads n bytes of unit i at off and reports if they are as they were.
	same(s *slot, src packSource, i, off, n int64) (bool, error)
	newSlot() (*slot, error)
}

type auditor struct {
	opt        *AuditOptions
	disk       *Disk
	parentID   string
	size       int64 // whole sectors
	src        packSource
	ref        reference
	atLeastOne bool
	units      unitSet
	bytes      atomic.Int64
}

// unitSet is an ascending list of ranges of units.
type unitSet struct {
	ranges []auditRange
	n      int64
	full   bool // there was more
}

// auditRange is the range [from, to) of units.
type auditRange struct{ from, to int64 }

// maxAuditRanges bounds the list of what could be audited: 16 MiB.
const maxAuditRanges = 1 << 20

func (u *unitSet) add(from, to int64) {
	if k := len(u.ranges); k > 0 {
		last := &u.ranges[k-1]
		from = max(from, last.to)
		if from < to && last.to == from {
			last.to, u.n = to, u.n+to-from
			return
		}
	}
	if u.full = u.full || from < to && len(u.ranges) == maxAuditRanges; from < to && !u.full {
		u.ranges, u.n = append(u.ranges, auditRange{from, to}), u.n+to-from
	}
}

func (a *auditor) run(ctx context.Context, workers int) (int64, error) {
	if err := a.collect(ctx); err != nil {
		return 0, err
	}
	if last := len(a.units.ranges) - 1; a.units.full {
		a.opt.Detail(fmt.Sprintf("disk %s: what is unchanged lies in very many places, the audit is of the first %d bytes", a.disk.Record.Key, a.units.ranges[last].to*a.ref.unitBytes()))
	}
	g, ctx := errgroup.WithContext(ctx)
	units := make(chan int64)
	g.Go(func() error {
		defer close(units)
		for i := range a.sample {
			select {
			case units <- i:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	for range workers {
		g.Go(func() error { return a.work(units) })
	}
	err := g.Wait()
	return a.bytes.Load(), err
}

// collect lists the units that are said to be unchanged as a whole, without
// those that were zero and are known to be.
func (a *auditor) collect(ctx context.Context) error {
	changes := &paddedRuns{Changes: a.disk.Changes, from: a.disk.Image.Size(), size: a.size}
	for from := int64(0); from < a.size; {
		var err error
		if from, err = a.collectFrom(ctx, changes, from); err != nil {
			return err
		}
	}
	return nil
}

// collectFrom does so from an offset on, and returns where to go on. The rest of a long unit
// that has changed is not asked for: the tables that tell of it may not be in memory.
func (a *auditor) collectFrom(ctx context.Context, changes *paddedRuns, from int64) (int64, error) {
	const skipBytes = 1 << 20
	unit, end := a.ref.unitBytes(), from // of the present run of unchanged bytes
	for r, err := range changes.Runs(from, a.size-from) {
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return 0, err
		}
		if r.Kind == disk.Parent {
			end = r.End()
			continue
		}
		if err := a.unchanged(unit, from, end); err != nil {
			return 0, err
		}
		from, end = r.End(), r.End()
		if next := min((from+unit-1)/unit*unit, a.size); next-from >= skipBytes {
			return next, nil
		}
	}
	return a.size, a.unchanged(unit, from, end)
}

func (a *auditor) unchanged(unit, from, end int64) error {
	from = (from + unit - 1) / unit * unit
	if end != a.size {
		end = end / unit * unit
	}
	if from >= end {
		return nil
	}
	for r, err := range a.src.im.Runs(from, end-from) {
		if err != nil {
			return err
		}
		first, behind := r.Offset/unit, (r.End()+unit-1)/unit
		if r.Kind != disk.Zero {
			a.units.add(first, behind)
			continue
		}
		for i := a.ref.nextListed(first); i < behind; i = a.ref.nextListed(i + 1) {
			a.units.add(i, i+1)
		}
	}
	return nil
}

// sample yields the units to compare, ascending.
func (a *auditor) sample(yield func(int64) bool) {
	if a.units.n == 0 {
		return
	}
	random := rand.New(rand.NewChaCha8(sha256.Sum256([]byte("vmstream audit\x00" + a.opt.ID + "\x00" + a.disk.Record.Key))))
	picked, left := false, a.units
	var passed int64 // units before left
	pick := func(n int64) bool {
		for n-passed >= left.ranges[0].to-left.ranges[0].from {
			passed += left.ranges[0].to - left.ranges[0].from
			left.ranges = left.ranges[1:]
		}
		picked = true
		return yield(left.ranges[0].from + n - passed)
	}
	last := int64(-1)
	for k := 0.0; k/a.opt.Share < float64(a.units.n); k++ {
		n := int64((k + random.Float64()) / a.opt.Share)
		if a.opt.Share >= 1 {
			n = int64(k)
		}
		if n >= a.units.n || n == last {
			continue
		}
		last = n
		if !pick(n) {
			return
		}
	}
	if !picked && a.atLeastOne {
		pick(random.Int64N(a.units.n))
	}
}

func (a *auditor) work(units <-chan int64) error {
	var s *slot
	for i := range units {
		if s == nil {
			var err error
			if s, err = a.ref.newSlot(); err != nil {
				return err
			}
			defer s.release()
		}
		off := i * a.ref.unitBytes()
		n := min(a.ref.unitBytes(), a.size-off)
		same, err := a.ref.same(s, a.src, i, off, n)
		if err != nil {
			return err
		}
		if !same {
			return fmt.Errorf("%w: %d bytes at %d are said to be as in backup %s, but they have changed; a full backup is needed", ErrUntrusted, n, off, a.parentID)
		}
		a.bytes.Add(n)
	}
	return nil
}
