// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

func TestExec(t *testing.T) {
	eachNaming(t, func(t *testing.T, esx2 bool) {
		g, j := newGuest(t, esx2), testJournal(t)
		g.lock() // it is running
		frozen := g.snapshotModel()
		s, err := Take(t.Context(), g.exec(), j, g.request())
		if err != nil || s.Consistency != Crash || s.Stall == 0 {
			t.Fatalf("%+v, %v", s, err)
		}
		g.write()
		for i := range s.Disks {
			g.same("frozen", &s.Disks[i], frozen[i])
		}
		if err := errors.Join(s.Check(t.Context()), s.Release(t.Context(), true)); err != nil {
			t.Fatal(err)
		}
		g.unlock()
		g.check("released", 0)
		wantEntries(t, j, 0)

		// Over a level that was there before, and below one that somebody adds.
		keep, err := Take(t.Context(), Redo{Keep: true}, j, g.request())
		g.must(err)
		g.must(keep.Release(t.Context(), true))
		g.write()
		frozen = g.snapshotModel()
		s, err = Take(t.Context(), g.exec(), j, g.request())
		g.must(err)
		g.write()
		g.same("frozen", &s.Disks[1], frozen[1])
		g.must(s.Release(t.Context(), true))
		g.check("released", 1)
		wantEntries(t, j, 0)
	})
}

// TestExecRolling has the host merge the lower log, while the machine runs.
func TestExecRolling(t *testing.T) {
	g, j := newGuest(t, true), testJournal(t)
	p := g.exec()
	p.Rolling = true
	for round := range 4 {
		frozen := g.snapshotModel()
		g.lock()
		s, err := Take(t.Context(), p, j, g.request())
		g.must(err)
		g.write()
		g.same("frozen", &s.Disks[0], frozen[0])
		if round == 2 {
			g.setFault("commit:partial")
			if err := s.Release(t.Context(), true); err == nil {
				t.Fatal("nobody has noticed")
			}
			g.setFault("")
			g.must(Reap(t.Context(), j, wantEntries(t, j, 1)[0].ID, []Provider{p}, Voice{}))
		} else {
			g.must(s.Release(t.Context(), true))
		}
		g.unlock()
		g.check("after a round", 1)
		g.write()
		s, err = Take(t.Context(), p, j, g.request())
		g.must(err)
		g.write()
		g.must(s.Release(t.Context(), false))
		g.check("after one that failed", 1)
		wantEntries(t, j, 0)
	}
}

// TestExecFaults has each command go wrong in each way, in the making of a
// snapshot and in its removal. Either nothing is left, or the journal says what,
// and it can be reaped once the tools work again.
func TestExecFaults(t *testing.T) {
	testenv.Long(t)
	eachNaming(t, func(t *testing.T, esx2 bool) {
		create, remove := "vmsvc/snapshot.create", "vmsvc/snapshot.remove"
		faults := []string{"vmsvc/getallvms:fail-before", "vmsvc/getallvms:garbage", "vmsvc/getallvms:nothing", "vmsvc/snapshot.get:fail-before", "vmsvc/snapshot.get:garbage", "vmsvc/snapshot.get:nothing", "vmsvc/snapshot.get:hang-before"}
		if esx2 {
			create, remove, faults = "addredo", "commit", nil
		}
		for _, how := range []string{"fail-before", "fail-after", "hang-before", "hang-after", "nothing", "partial"} {
			faults = append(faults, create+":"+how, remove+":"+how)
		}
		for _, fault := range faults {
			t.Run(fault, func(t *testing.T) { t.Parallel(); execFault(t, esx2, fault) })
		}
	})
}

func execFault(t *testing.T, esx2 bool, fault string) {
	g, j := newGuest(t, esx2), testJournal(t)
	g.setFault(fault)
	p := g.exec()
	s, err := Take(t.Context(), p, j, g.request())
	if err == nil {
		g.write()
		err = s.Release(t.Context(), true)
	}
	l, lerr := j.List()
	g.must(lerr)
	// What has failed behind its work is found out to have worked.
	if err == nil {
		t.Fatalf("nobody has noticed; the journal has %d entries", len(l))
	}
	t.Logf("%d entries left: %v", len(l), err)
	g.setFault("")
	for _, e := range l {
		if err := Reap(t.Context(), j, e.ID, []Provider{p}, Voice{}); err != nil {
			t.Fatalf("reap: %v", err)
		}
	}
	g.check("in the end", 0)
	wantEntries(t, j, 0)
}

// TestExecStopped stops a run while the host is being asked for a snapshot, which
// comes when the run has looked and found none: the journal still knows of it.
func TestExecStopped(t *testing.T) {
	eachNaming(t, func(t *testing.T, esx2 bool) {
		g, j := newGuest(t, esx2), testJournal(t)
		verb := "vmsvc/snapshot.create"
		if esx2 {
			verb = "addredo"
		}
		g.setFault(verb + ":hang-before")
		p := g.exec()
		ctx, stop := context.WithCancelCause(t.Context())
		why := errors.New("stopped")
		asked := make(chan struct{})
		go func() {
			defer close(asked)
			for ctx.Err() == nil {
				if l, err := j.List(); err == nil && len(l) == 1 && l[0].Phase == execCreating {
					time.Sleep(300 * time.Millisecond) // the tool is running by now, or about to
					stop(why)
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
		_, err := Take(ctx, p, j, g.request())
		stop(nil)
		<-asked
		if !errors.Is(err, why) {
			t.Fatalf("got %v", err)
		}
		l := wantEntries(t, j, 1)
		g.setFault("")
		tool := &standIn{config: g.vmx} // the host goes on
		if esx2 {
			g.must(tool.do("addredo", []string{"scsi0:0"}))
		} else {
			g.must(tool.do(verb, []string{"12", "vmstream-" + l[0].ID, "id", "0", "0"}))
		}
		g.must(Reap(t.Context(), j, l[0].ID, []Provider{p}, Voice{}))
		g.check("reaped", 0)
		wantEntries(t, j, 0)
	})
}

// TestExecMayCome reaps what a run was killed at that had just asked for a
// snapshot: as long as it may come the journal has to know of it.
func TestExecMayCome(t *testing.T) {
	eachNaming(t, func(t *testing.T, esx2 bool) {
		g, j := newGuest(t, esx2), testJournal(t)
		p := g.exec()
		e, err := j.Begin(Record{Provider: ExecName, BackupID: "b"})
		g.must(err)
		x, _, err := p.prepare(t.Context(), g.request(), e)
		g.must(err)
		x.rec.Begun = true
		g.must(errors.Join(e.Save(execCreating, x.rec), e.Close()))
		p.coming = 0
		if err := Reap(t.Context(), j, e.Record().ID, []Provider{p}, Voice{}); !errors.Is(err, disk.ErrInUse) {
			t.Fatalf("got %v", err)
		}
		wantEntries(t, j, 1)
		p.coming = -1
		g.must(Reap(t.Context(), j, e.Record().ID, []Provider{p}, Voice{}))
		wantEntries(t, j, 0)
	})
}

// TestExecKilled kills a run at every record; its snapshot is reaped.
func TestExecKilled(t *testing.T) {
	if dir := os.Getenv(envDir); dir != "" {
		execVictim(t, dir)
		return
	}
	testenv.Long(t)
	eachNaming(t, func(t *testing.T, esx2 bool) {
		for n := 0; ; n++ {
			g, dir := newGuest(t, esx2), t.TempDir()
			g.must(saveCrashed(dir, &crashed{esx2, g.vmx, g.model}))
			if !killed(t, "TestExecKilled", dir, n) {
				if n < 3 {
					t.Fatalf("only %d records were saved", n)
				}
				return
			}
			c, err := loadCrashed(dir)
			g.must(err)
			g.model = c.Model
			j, err := OpenJournal(filepath.Join(dir, "state"))
			g.must(err)
			l := wantEntries(t, j, 1)
			g.must(Reap(t.Context(), j, l[0].ID, []Provider{&Exec{coming: -1}}, Voice{}))
			g.check(fmt.Sprintf("killed at %d and reaped", n), 0)
			wantEntries(t, j, 0)
		}
	})
}

func execVictim(t *testing.T, dir string) {
	c, err := loadCrashed(dir)
	if err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, c.ESX2) // for its methods
	g.vmx, g.model = c.VMX, c.Model
	s, err := Take(context.Background(), g.exec(), killer(t, dir), g.request())
	g.must(err)
	g.write()
	c.Model = g.model
	g.must(saveCrashed(dir, c))
	g.must(s.Release(context.Background(), true))
}

func TestExecCheck(t *testing.T) {
	g, j := newGuest(t, false), testJournal(t)
	p := g.exec()
	p.Check = "false"
	s, err := Take(t.Context(), p, j, g.request())
	g.must(err)
	if err := s.Check(t.Context()); err == nil {
		t.Error("a check that fails")
	}
	g.must(s.Release(t.Context(), false))
	g.check("released", 0)
}

func TestExecValidate(t *testing.T) {
	for _, c := range []ExecCommands{
		{},
		{Create: "a"},
		{Create: "a", Remove: "b {snapshot}"},
		{Create: "a {vmid}", Remove: "b"},
		{Create: "a {level}", Remove: "b"},
		{Create: "a 'x", Remove: "b"},
		{Create: "a", Remove: "b {what}"},
	} {
		if c.Validate() == nil {
			t.Errorf("%+v is taken", c)
		}
	}
	c := ExecCommands{Create: "a {name}", Remove: "b {snapshot}", List: "c"}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if _, ok := ExecPreset("xen", false); ok {
		t.Error("preset xen")
	}
	if c, _ := ExecPreset("esxi", true); !c.Quiesced {
		t.Error("not quiesced")
	}
}

func TestExecLists(t *testing.T) {
	list := []byte("Get Snapshot:\n|-ROOT\n--Snapshot Name        : a\n--Snapshot Id        : 4\n--Snapshot Desciption  : Snapshot Id : 9\n--|-CHILD\n----Snapshot Name        : b c\n----Snapshot Id        : $(x)\n----Snapshot Name        : b c\n----Snapshot Id        : 6\nid-8 b c\n")
	if got := snapshotIDs(list, "b c"); !slices.Equal(got, []string{"6", "id-8"}) {
		t.Errorf("%q", got)
	}
	if got := snapshotIDs(list, "a"); !slices.Equal(got, []string{"4"}) {
		t.Errorf("%q", got)
	}
	rows := []byte("Vmid Name File Guest\n7  web 01  [ds 1] web 01/web.vmx  x vmx-08  note [b] c/d.vmx\n8 x [ds] 01/web.vmx y\n9 z [ds] ../web.vmx y\n")
	if got := machineIDs(rows, "/vmfs/volumes/4f-1/web 01/web.vmx"); !slices.Equal(got, []string{"7"}) {
		t.Errorf("%q", got)
	}
}

func FuzzExecLists(f *testing.F) {
	f.Add([]byte("--Snapshot Name : a\n--Snapshot Id : 4\n7 web [ds] web/web.vmx x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, id := range append(snapshotIDs(b, "a"), machineIDs(b, "/x/web/web.vmx")...) {
			if !isSnapshotID(id) {
				t.Fatalf("%q", id)
			}
		}
	})
}
