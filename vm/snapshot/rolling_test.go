// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

// TestRolling goes through rounds of the scheme, and through backups that fail
// and machines that run when the log is to be merged.
func TestRolling(t *testing.T) {
	eachNaming(t, func(t *testing.T, esx2 bool) {
		g, j := newGuest(t, esx2), testJournal(t)
		p := Redo{Rolling: true}
		take := func() *Snapshot {
			t.Helper()
			frozen := g.snapshotModel()
			s, err := Take(t.Context(), p, j, g.request())
			g.must(err)
			g.write()
			g.same("frozen", &s.Disks[0], frozen[0])
			g.same("frozen", &s.Disks[1], frozen[1])
			g.must(s.Check(t.Context()))
			return s
		}
		s := take()
		g.must(s.Release(t.Context(), false))
		g.check("the first one failed", 0)
		for round := range 4 {
			g.must(take().Release(t.Context(), true))
			g.check("after a round", 1)
			g.write()
			g.check("written", 1)
			g.must(take().Release(t.Context(), false))
			g.check("after one that failed", 1)
			if round == 2 {
				g.write()
			}
		}

		s = take()
		g.lock()
		if err := s.Release(t.Context(), true); !errors.Is(err, disk.ErrInUse) {
			t.Fatalf("a machine that runs: %v", err)
		}
		g.unlock()
		g.check("not merged", 2)
		if _, err := Take(t.Context(), p, j, g.request()); !errors.Is(err, disk.ErrUnsupported) || !strings.Contains(err.Error(), "snapshot reap") {
			t.Fatalf("over a log that waits: %v", err)
		}
		g.must(Reap(t.Context(), j, wantEntries(t, j, 1)[0].ID, []Provider{p}, Voice{}))
		g.check("reaped", 1)
		wantEntries(t, j, 0)
	})
}

// TestRollingOverSnapshot has a VM with a snapshot of its product, which needs the
// base as it is: that is found before anything is made, and not when the stream is
// complete.
func TestRollingOverSnapshot(t *testing.T) {
	g, j := newGuest(t, false), testJournal(t)
	s, err := Take(t.Context(), Redo{Keep: true}, j, g.request())
	g.must(errors.Join(err, s.Release(t.Context(), true)))
	list := "snapshot.lastUID = \"1\"\nsnapshot.current = \"1\"\nsnapshot.numSnapshots = \"1\"\nsnapshot0.uid = \"1\"\nsnapshot0.displayName = \"mine\"\n" +
		"snapshot0.numDisks = \"1\"\nsnapshot0.disk0.fileName = \"" + diskName(1) + "\"\nsnapshot0.disk0.node = \"scsi0:1\"\n"
	g.must(os.WriteFile(strings.TrimSuffix(g.vmx, "x")+"sd", []byte(list), 0o600))
	_, err = Take(t.Context(), Redo{Rolling: true}, j, g.request())
	if !errors.Is(err, disk.ErrUnsupported) || !strings.Contains(err.Error(), "disk scsi0:1: its redo log could not be merged") {
		t.Fatalf("got %v", err)
	}
	g.check("refused", 1)
	wantEntries(t, j, 0)
}
