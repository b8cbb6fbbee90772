// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi_test

import (
	"context"
	"encoding/hex"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/scsi"
	"github.com/vmstream/vmstream/scsi/scsitest"
)

var naa = []byte{0x60, 0x01, 0x40, 0x5a, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}

// pair returns a LUN and two hosts' devices of it.
func pair(t *testing.T, o scsitest.Options) (l *scsitest.LUN, a, b *scsi.Device) {
	t.Helper()
	l = scsitest.New(o)
	a, b = l.Device("iqn.a"), l.Device("iqn.b")
	t.Cleanup(func() {
		if err := errors.Join(a.Close(), b.Close()); err != nil {
			t.Error(err)
		}
	})
	return l, a, b
}

func TestReserve(t *testing.T) {
	_, a, b := pair(t, scsitest.Options{})
	exerciseReserve(t, a, b)
}

func TestPersistent(t *testing.T) {
	_, a, b := pair(t, scsitest.Options{})
	exercisePersistent(t, a, b)
	_, a, _ = pair(t, scsitest.Options{NoPersistent: true})
	if r := reservation(t, a); !r.Unknown || r.Conflict {
		t.Errorf("a device without them: %+v", r)
	}
	wantError(t, a.Register(t.Context(), 1), scsi.ErrUnsupported)
}

// TestPersistentHost has the host that has a reservation be named.
func TestPersistentHost(t *testing.T) {
	_, a, b := pair(t, scsitest.Options{})
	must(t, a.Register(t.Context(), 7))
	must(t, a.ReservePersistent(t.Context(), 7, scsi.ExclusiveAccess))
	r := reservation(t, b)
	if got, want := r.String(), "persistent, exclusive-access, key 0x7, by iscsi iqn.a"; got != want {
		t.Errorf("reserved %q, want %q", got, want)
	}
}

func TestUnmapped(t *testing.T) {
	for _, ranges := range []int{0, 1, 2} {
		for _, size := range []int{512, 4096} {
			l, a, _ := pair(t, scsitest.Options{Thin: true, Zero: true, Ranges: ranges, BlockBytes: size})
			exerciseUnmapped(t, a, func(r blockRange) error {
				l.Map(r.lba, int(r.blocks))
				return nil
			})
		}
	}
}

// TestThinRefused has LUNs be read that do not say enough.
func TestThinRefused(t *testing.T) {
	for name, o := range map[string]scsitest.Options{
		"thick": {}, "no zeros": {Thin: true}, "zeros, but thick": {Zero: true},
	} {
		_, a, _ := pair(t, o)
		if _, err := scsi.NewThin(t.Context(), a, scsi.Place{SizeBytes: 512}); !errors.Is(err, scsi.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	l, a, _ := pair(t, scsitest.Options{Thin: true, Zero: true})
	l.Inject(&scsitest.Fault{Opcode: 0x9e, Change: func(b []byte) int { return len(b) }})
	for _, p := range []scsi.Place{{OffsetBytes: 512, SizeBytes: 1024 * 512}, {OffsetBytes: math.MaxInt64, SizeBytes: 1}, {OffsetBytes: -1}} {
		if _, err := scsi.NewThin(t.Context(), a, p); !errors.Is(err, scsi.ErrInvalid) {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

// TestThinCommands has the device be asked once for what it tells in one answer.
func TestThinCommands(t *testing.T) {
	l, a, _ := pair(t, scsitest.Options{Thin: true, Zero: true})
	l.Map(10, 1)
	thin, err := scsi.NewThin(t.Context(), a, scsi.Place{SizeBytes: 1024 * 512})
	must(t, err)
	before := l.Commands()
	for off := int64(0); off < thin.Size(); off += 4096 {
		for _, err := range thin.Ranges(t.Context(), off, 4096) {
			must(t, err)
		}
	}
	if n := l.Commands() - before; n != 0 {
		t.Errorf("%d commands", n)
	}
}

func TestIdentity(t *testing.T) {
	_, a, b := pair(t, scsitest.Options{Vendor: "LIO-ORG", Model: "disk", Serial: "5a010203", NAA: naa})
	if id := exerciseIdentity(t, a, b); id != "naa.6001405a0102030405060708090a0b0c" {
		t.Errorf("id %s", id)
	}
	i, err := a.Identity(t.Context())
	must(t, err)
	if want := []scsi.ID{"naa.6001405a0102030405060708090a0b0c", "t10.LIO-ORG 5a010203"}; !slices.Equal(i.IDs, want) || i.Serial != "5a010203" {
		t.Errorf("it is %+v", i)
	}
	q, err := a.Inquiry(t.Context())
	must(t, err)
	if q != (scsi.Inquiry{Type: scsi.TypeDisk, Vendor: "LIO-ORG", Model: "disk", Revision: "1.0"}) {
		t.Errorf("it says %+v", q)
	}
}

func TestCapacity(t *testing.T) {
	l, a, _ := pair(t, scsitest.Options{Blocks: 77, BlockBytes: 4096})
	want := scsi.Capacity{Blocks: 77, BlockBytes: 4096}
	for range 2 {
		c, err := a.Capacity(t.Context())
		must(t, err)
		if c != want || c.SizeBytes() != 77*4096 {
			t.Errorf("%+v, want %+v", c, want)
		}
		// The second time the device does not know the long command.
		l.Inject(&scsitest.Fault{Opcode: 0x9e, Result: scsitest.Check(scsi.IllegalRequest, 0x20, 0)})
	}
}

func TestAlerts(t *testing.T) {
	_, a, b := pair(t, scsitest.Options{Alerts: []int{3, 20, 64}})
	got, err := a.TapeAlerts(t.Context())
	must(t, err)
	if !slices.Equal(got, []int{3, 20, 64}) {
		t.Errorf("alerts %v", got)
	}
	if got, err = b.TapeAlerts(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("the second time: %v, %v", got, err)
	}
	_, a, _ = pair(t, scsitest.Options{})
	_, err = a.TapeAlerts(t.Context())
	wantError(t, err, scsi.ErrUnsupported)
}

// TestAnswers has devices answer what they must not.
func TestAnswers(t *testing.T) {
	zero := func(b []byte) int {
		clear(b)
		return len(b)
	}
	fill := func(b []byte) int {
		for i := range b {
			b[i] = 0xff
		}
		return len(b)
	}
	short := func([]byte) int { return 3 }
	ctx := context.Background()
	inquiry := func(d *scsi.Device) error { _, err := d.Inquiry(ctx); return err }
	identity := func(d *scsi.Device) error { _, err := d.Identity(ctx); return err }
	capacity := func(d *scsi.Device) error { _, err := d.Capacity(ctx); return err }
	status := func(d *scsi.Device) error { _, err := d.LBAStatus(ctx, 5); return err }
	reserved := func(d *scsi.Device) error { _, err := d.Reservation(ctx); return err }
	alerts := func(d *scsi.Device) error { _, err := d.TapeAlerts(ctx); return err }
	for _, c := range []struct {
		name   string
		opcode byte
		change func([]byte) int
		do     func(*scsi.Device) error
	}{
		{"short inquiry", 0x12, short, inquiry},
		{"short page", 0x12, short, identity},
		{"another page", 0x12, fill, identity},
		{"short capacity", 0x9e, short, capacity},
		{"capacity 0", 0x9e, zero, capacity},
		{"capacity too large", 0x9e, fill, capacity},
		{"short status", 0x9e, short, status},
		{"status of nothing", 0x9e, zero, status},
		{"status behind the end", 0x9e, fill, status},
		{"short reservation", 0x5e, short, reserved},
		{"short alerts", 0x4d, short, alerts},
		{"another page of alerts", 0x4d, fill, alerts},
	} {
		l, a, _ := pair(t, scsitest.Options{Thin: true, Zero: true, NAA: naa, Alerts: []int{1}})
		l.Inject(&scsitest.Fault{Opcode: c.opcode, Change: c.change})
		if err := c.do(a); !errors.Is(err, scsi.ErrInvalid) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestFailures has commands fail in every way.
func TestFailures(t *testing.T) {
	broken := errors.New("cable")
	for _, c := range []struct {
		name string
		f    scsitest.Fault
		want error
		text string
	}{
		{"not ready", scsitest.Fault{Result: scsitest.Check(scsi.NotReady, 4, 2)}, scsi.ErrNotReady, "not ready: has to be started or loaded (2/04/02)"},
		{"medium", scsitest.Fault{Result: scsitest.Check(scsi.MediumError, 0x11, 0)}, scsi.ErrMedium, "unrecovered read error"},
		{"hardware", scsitest.Fault{Result: scsitest.Check(scsi.HardwareError, 0x44, 0)}, scsi.ErrHardware, "hardware error"},
		{"protected", scsitest.Fault{Result: scsitest.Check(scsi.DataProtect, 0x27, 0)}, scsi.ErrProtected, "write-protected"},
		{"attention without end", scsitest.Fault{Result: scsitest.Check(scsi.UnitAttention, 0x29, 0)}, scsi.ErrAttention, "power on, reset"},
		{"unknown code", scsitest.Fault{Result: scsitest.Check(scsi.AbortedCommand, 0xfe, 0x12)}, nil, "aborted command (b/fe/12)"},
		{"no sense", scsitest.Fault{Result: &scsi.Result{Status: scsi.StatusCheckCondition}}, nil, "no sense"},
		{"conflict", scsitest.Fault{Result: &scsi.Result{Status: scsi.StatusReservationConflict}}, scsi.ErrReserved, "reserved by another host"},
		{"aborted", scsitest.Fault{Result: &scsi.Result{Status: scsi.StatusTaskAborted}}, nil, "task aborted"},
		{"path", scsitest.Fault{Err: broken}, broken, "RESERVE(6): cable"},
	} {
		l, a, _ := pair(t, scsitest.Options{})
		c.f.Opcode = 0x16
		l.Inject(&c.f)
		err := a.Reserve(t.Context())
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), "lun@iqn.a: RESERVE(6)") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for name, r := range map[string]*scsi.Result{
		"recovered": scsitest.Check(scsi.RecoveredError, 0, 0), "busy for a while": {Status: scsi.StatusBusy},
		"told": scsitest.Check(scsi.UnitAttention, 0x2a, 0x09),
	} {
		l, a, _ := pair(t, scsitest.Options{})
		l.Inject(&scsitest.Fault{Opcode: 0x16, Times: 2, Result: r})
		if err := a.Reserve(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	l, a, _ := pair(t, scsitest.Options{})
	l.Inject(&scsitest.Fault{Opcode: 0x16, Result: &scsi.Result{Status: scsi.StatusBusy}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantError(t, a.Reserve(ctx), context.Canceled)
	wantError(t, a.Reset(t.Context(), scsi.ResetTarget), scsi.ErrUnsupported)
}

func TestParseSense(t *testing.T) {
	for text, want := range map[string]scsi.Sense{
		"70 00 05 00000000 0a 00000000 24 00 0000": {Key: scsi.IllegalRequest, ASC: 0x24},
		"f0 00 63 0000000a 0a 00000000 00 00 0000": {Key: scsi.MediumError, WrongLength: true, EndOfMedium: true, Information: 10, HasInfo: true},
		"71 00 80 00": {Deferred: true, Filemark: true},
		"72 06 29 03": {Key: scsi.UnitAttention, ASC: 0x29, ASCQ: 3},
		"72 08 00 05 000000 10 000a80000000000000000007 0402 0080": {
			Key: scsi.BlankCheck, ASCQ: 5, Information: 7, HasInfo: true, Filemark: true,
		},
		"72 00 00 01 000000 04 0402 0080": {ASCQ: 1, Filemark: true},
		"72 03 11 00 000000 ff 000a80":    {Key: scsi.MediumError, ASC: 0x11},
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		must(t, err)
		got, ok := scsi.ParseSense(b)
		if !ok || got != want {
			t.Errorf("%s: %+v, %v, want %+v", text, got, ok, want)
		}
	}
	for _, b := range [][]byte{nil, {0x70, 0}, {0x7f, 0, 1}} {
		if s, ok := scsi.ParseSense(b); ok {
			t.Errorf("% x: %+v", b, s)
		}
	}
}
