// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi_test

import (
	"errors"
	"testing"

	"github.com/vmstream/vmstream/scsi"
)

// What is in this file is done to the device of package scsitest, and to LUNs of Linux
// in the guest of TestLab: both have to do the same.

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("the error is %v, want %v", err, want)
	}
}

func reservation(t *testing.T, d *scsi.Device) scsi.Reservation {
	t.Helper()
	r, err := d.Reservation(t.Context())
	must(t, err)
	return r
}

// exerciseReserve has two hosts reserve a LUN by RESERVE(6).
func exerciseReserve(t *testing.T, a, b *scsi.Device) {
	ctx := t.Context()
	if r := reservation(t, b); r.Conflict || r.Persistent {
		t.Fatalf("reserved before anything is done: %v", &r)
	}
	must(t, a.Reserve(ctx))
	must(t, a.TestReady(ctx))
	must(t, a.Reserve(ctx)) // who has it may say so again
	wantError(t, b.TestReady(ctx), scsi.ErrReserved)
	wantError(t, b.Reserve(ctx), scsi.ErrReserved)
	if r := reservation(t, b); !r.Conflict || r.String() != "by another host" {
		t.Errorf("seen from the other host it is reserved %v", &r)
	}
	if r := reservation(t, a); r.Conflict {
		t.Errorf("its own host sees a conflict")
	}
	if _, err := b.Inquiry(ctx); err != nil {
		t.Errorf("INQUIRY is for all: %v", err)
	}
	must(t, b.Release(ctx)) // says that all is well, and does nothing
	wantError(t, b.TestReady(ctx), scsi.ErrReserved)
	must(t, a.Release(ctx))
	must(t, b.TestReady(ctx))

	must(t, a.Reserve(ctx))
	must(t, b.Reset(ctx, scsi.ResetLUN))
	must(t, b.TestReady(ctx))
	must(t, b.Reserve(ctx))
	wantError(t, a.TestReady(ctx), scsi.ErrReserved)
	must(t, b.Release(ctx))
	must(t, a.TestReady(ctx))
}

// exercisePersistent has two hosts make persistent reservations.
func exercisePersistent(t *testing.T, a, b *scsi.Device) {
	ctx := t.Context()
	const keyA, keyB = 0xa1, 0xb2fedcba98765432
	// Devices say different things to a host that has not registered.
	if err := a.ReservePersistent(ctx, keyA, scsi.WriteExclusive); err == nil {
		t.Error("a host has reserved it that has not registered")
	}
	must(t, a.Register(ctx, keyA))
	must(t, b.Register(ctx, keyB))
	if r := reservation(t, a); r.Persistent || len(r.Registrants) != 2 {
		t.Errorf("with two hosts registered: %+v", r)
	}
	must(t, a.ReservePersistent(ctx, keyA, scsi.WriteExclusive))
	wantError(t, b.ReservePersistent(ctx, keyB, scsi.ExclusiveAccess), scsi.ErrReserved)
	for _, d := range []*scsi.Device{a, b} {
		r := reservation(t, d)
		if !r.Persistent || r.Key != keyA || r.Type != scsi.WriteExclusive || r.Unknown {
			t.Errorf("%s: %+v", d.Name(), r)
		}
		holders := 0
		for _, x := range r.Registrants {
			if x.Holder {
				holders++
				if x.Key != keyA {
					t.Errorf("%s: key %v has it", d.Name(), x.Key)
				}
			}
		}
		if holders != 1 || len(r.Registrants) != 2 {
			t.Errorf("%s: registered are %+v", d.Name(), r.Registrants)
		}
	}
	must(t, b.Reset(ctx, scsi.ResetLUN)) // does not break it
	if r := reservation(t, b); !r.Persistent {
		t.Error("a reset has broken a persistent reservation")
	}
	must(t, a.ReleasePersistent(ctx, keyA, scsi.WriteExclusive))
	must(t, b.ReservePersistent(ctx, keyB, scsi.ExclusiveAccessRegistrantsOnly))
	if r := reservation(t, a); r.Key != keyB || r.Type != scsi.ExclusiveAccessRegistrantsOnly {
		t.Errorf("the second reservation is %+v", r)
	}
	must(t, a.ClearPersistent(ctx, keyA))
	if r := reservation(t, b); r.Persistent || len(r.Registrants) != 0 {
		t.Errorf("after it was cleared: %+v", r)
	}
}

// blockRange has so many blocks.
type blockRange struct{ lba, blocks uint64 }

// exerciseUnmapped compares what is told of a LUN with what was written. write writes
// blocks, and unmap has them hold nothing; both keep to what the LUN counts in.
func exerciseUnmapped(t *testing.T, d *scsi.Device, write func(blockRange) error) {
	ctx := t.Context()
	limits, err := d.Limits(ctx)
	must(t, err)
	c, err := d.Capacity(ctx)
	must(t, err)
	if !c.Thin || !c.ZeroIfUnmapped || !limits.Unmap {
		t.Fatalf("no thin LUN: %+v, %+v", c, limits)
	}
	must(t, d.Unmap(ctx, 0, c.Blocks, limits))
	mapped := make([]bool, c.Blocks)
	set := func(r blockRange, to bool) {
		for i := range r.blocks {
			mapped[r.lba+i] = to
		}
	}
	for _, r := range []blockRange{{8, 16}, {64, 200}, {c.Blocks - 8, 8}} {
		must(t, write(r))
		set(r, true)
	}
	hole := blockRange{128, 64}
	must(t, d.Unmap(ctx, hole.lba, hole.blocks, limits))
	set(hole, false)
	thin, err := scsi.NewThin(ctx, d, scsi.Place{SizeBytes: c.SizeBytes()})
	must(t, err)
	compareMapped(t, thin, mapped, c.BlockBytes, 0)
	part := scsi.Place{OffsetBytes: 100 * c.BlockBytes, SizeBytes: 150 * c.BlockBytes}
	thin, err = scsi.NewThin(ctx, d, part)
	must(t, err)
	compareMapped(t, thin, mapped[100:250], c.BlockBytes, 0)
	compareMapped(t, thin, mapped[100:250], c.BlockBytes, 30*c.BlockBytes)
}

// compareMapped compares ranges from off on with the blocks that are mapped.
func compareMapped(t *testing.T, thin *scsi.Thin, mapped []bool, size, off int64) {
	t.Helper()
	at, ranges := off, 0
	for r, err := range thin.Ranges(t.Context(), off, 1<<62) {
		must(t, err)
		if r.Offset != at || r.Length <= 0 || r.Offset%size != 0 || r.Length%size != 0 {
			t.Fatalf("range %+v, where one at %d was to come", r, at)
		}
		for b := r.Offset / size; b < (r.Offset+r.Length)/size; b++ {
			if mapped[b] == r.Unmapped {
				t.Fatalf("block %d: it is told that unmapped is %v", b, r.Unmapped)
			}
		}
		at += r.Length
		ranges++
	}
	if at != int64(len(mapped))*size {
		t.Errorf("ranges end at %d", at)
	}
	if ranges < 2 {
		t.Errorf("%d ranges", ranges)
	}
}

// exerciseIdentity wants both devices to be one LUN.
func exerciseIdentity(t *testing.T, a, b *scsi.Device) scsi.ID {
	t.Helper()
	ia, err := a.Identity(t.Context())
	must(t, err)
	ib, err := b.Identity(t.Context())
	must(t, err)
	if ia.Best() == "" || ia.Best() != ib.Best() || ia.Serial != ib.Serial {
		t.Errorf("one says that it is %+v, the other %+v", ia, ib)
	}
	return ia.Best()
}
