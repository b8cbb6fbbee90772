// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

func TestRedo(t *testing.T) {
	eachNaming(t, func(t *testing.T, esx2 bool) {
		g, j := newGuest(t, esx2), testJournal(t)
		before, err := os.ReadFile(g.vmx)
		g.must(err)
		frozen := g.snapshotModel()
		s, err := Take(t.Context(), Redo{}, j, g.request())
		if err != nil || s.Consistency != PoweredOff || s.Stall == 0 {
			t.Fatalf("%+v, %v", s, err)
		}
		wantEntries(t, j, 1)
		g.write() // somebody has started the machine and stopped it again
		g.write()
		for i := range s.Disks {
			g.same("frozen", &s.Disks[i], frozen[i])
			if s.Disks[i].Info.CID == 0 {
				t.Errorf("disk %d has no content id", i)
			}
		}
		if err := errors.Join(s.Check(t.Context()), s.Release(t.Context(), true)); err != nil {
			t.Fatal(err)
		}
		g.check("released", 0)
		wantEntries(t, j, 0)
		if after, _ := os.ReadFile(g.vmx); string(after) != string(before) {
			t.Errorf("the configuration is not what it was: %s", after)
		}

		// What was read is stored: the levels are gone meanwhile.
		s, err = Take(t.Context(), Redo{}, j, g.request())
		g.must(err)
		g.write()
		g.must(s.EndReading(t.Context()))
		g.check("read", 0)
		wantEntries(t, j, 0)
		g.write()
		g.must(errors.Join(s.EndReading(t.Context()), s.Release(t.Context(), false)))
		g.check("read and released", 0)

		// Kept, the levels are what the next snapshot lies over.
		s, err = Take(t.Context(), Redo{Keep: true}, j, g.request())
		g.must(err)
		g.must(s.Release(t.Context(), true))
		wantEntries(t, j, 0)
		g.check("kept", 1)
		g.write()
		frozen = g.snapshotModel()
		s, err = Take(t.Context(), Redo{Keep: true}, j, g.request())
		g.must(err)
		g.write()
		g.same("frozen", &s.Disks[1], frozen[1])
		g.must(s.EndReading(t.Context()))
		g.check("read, to be kept", 2)
		g.must(s.Release(t.Context(), false)) // of a backup that failed nothing is kept
		g.check("failed", 1)
		wantEntries(t, j, 0)
	})
}

// TestRedoLone takes a disk that no configuration names.
func TestRedoLone(t *testing.T) {
	eachNaming(t, func(t *testing.T, esx2 bool) {
		g, j := newGuest(t, esx2), testJournal(t)
		r := &Request{Path: filepath.Join(filepath.Dir(g.vmx), diskName(0))}
		if esx2 {
			r.Open.Format = vmdk.SourceRaw
		} else if _, err := Take(t.Context(), Redo{}, j, r); !errors.Is(err, disk.ErrUnsupported) || !strings.Contains(err.Error(), "g.vmx names it") {
			t.Fatalf("a disk of a machine: %v", err)
		}
		config, err := os.ReadFile(g.vmx)
		g.must(errors.Join(err, os.Remove(g.vmx)))
		s, err := Take(t.Context(), Redo{}, j, r)
		if err != nil || s.Consistency != Crash || len(s.Disks) != 1 {
			t.Fatalf("%+v, %v", s, err)
		}
		g.same("frozen", &s.Disks[0], g.model[0])
		g.must(s.Release(t.Context(), true))
		g.must(os.WriteFile(g.vmx, config, 0o600))
		g.check("released", 0)
		wantEntries(t, j, 0)
	})
}

// TestRedoStarted has the machine running when the snapshot is to be released.
func TestRedoStarted(t *testing.T) {
	eachNaming(t, func(t *testing.T, esx2 bool) {
		g, j := newGuest(t, esx2), testJournal(t)
		s, err := Take(t.Context(), Redo{}, j, g.request())
		g.must(err)
		g.write()
		g.lock()
		err = s.Release(t.Context(), true)
		if !errors.Is(err, disk.ErrInUse) || !strings.Contains(err.Error(), "snapshot reap "+s.entry.Record().ID) {
			t.Fatalf("release while it runs: %v", err)
		}
		id := wantEntries(t, j, 1)[0].ID
		if err := Reap(t.Context(), j, id, []Provider{Redo{}}, Voice{}); !errors.Is(err, disk.ErrInUse) {
			t.Fatalf("reap while it runs: %v", err)
		}
		g.write()
		g.unlock()
		g.must(Reap(t.Context(), j, id, []Provider{Redo{}}, Voice{Warn: func(s string) { t.Error(s) }}))
		g.check("reaped", 0)
		wantEntries(t, j, 0)
	})
}

// TestRedoProcess is the same with a process that has the log open.
func TestRedoProcess(t *testing.T) {
	g, j := newGuest(t, true), testJournal(t)
	r := g.request()
	r.AllowInUse = true // does not mean that at the end
	s, err := Take(t.Context(), Redo{}, j, r)
	g.must(err)
	f, err := os.Open(filepath.Join(filepath.Dir(g.vmx), diskName(0)+".REDO"))
	g.must(err)
	if err := s.Release(t.Context(), true); !errors.Is(err, disk.ErrInUse) {
		t.Fatalf("release while a process has it open: %v", err)
	}
	g.must(f.Close())
	g.must(Reap(t.Context(), j, wantEntries(t, j, 1)[0].ID, []Provider{Redo{}}, Voice{}))
	g.check("reaped", 0)
}

func TestRedoRefuses(t *testing.T) {
	g, j := newGuest(t, false), testJournal(t)
	config, err := os.ReadFile(g.vmx)
	g.must(err)
	for _, c := range []struct{ line, want string }{
		{`scsi0:1.mode = "independent-persistent"`, "disk scsi0:1 is independent-persistent"},
		{`scsi0:1.mode = "nonpersistent"`, "disk scsi0:1 is nonpersistent"},
		{`scsi0:1.sharing = "multi-writer"`, "disk scsi0:1 is shared"},
	} {
		g.must(os.WriteFile(g.vmx, []byte(string(config)+c.line+"\n"), 0o600))
		if _, err := Take(t.Context(), Redo{}, j, g.request()); !errors.Is(err, disk.ErrUnsupported) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.line, err)
		}
		r := g.request()
		r.Disks = []string{"scsi0:0"}
		s, err := Take(t.Context(), Redo{}, j, r)
		g.must(err)
		g.must(s.Release(t.Context(), true))
	}
	g.must(os.WriteFile(g.vmx, config, 0o600))
	g.lock()
	if _, err := Take(t.Context(), Redo{}, j, g.request()); !errors.Is(err, disk.ErrInUse) {
		t.Errorf("a machine that is running: %v", err)
	}
	g.unlock()
	g.check("refused", 0)
	wantEntries(t, j, 0)
}

// TestRedoFails has the second of two disks fail, and hooks.
func TestRedoFails(t *testing.T) {
	eachNaming(t, func(t *testing.T, esx2 bool) {
		g, j := newGuest(t, esx2), testJournal(t)
		path := filepath.Join(filepath.Dir(g.vmx), diskName(1))
		f, err := os.OpenFile(strings.TrimSuffix(path, ".vmdk")+map[bool]string{true: ".vmdk", false: "-flat.vmdk"}[esx2], os.O_RDWR, 0)
		g.must(err)
		if _, err := Take(t.Context(), Redo{}, j, g.request()); !errors.Is(err, disk.ErrInUse) || !strings.Contains(err.Error(), "disk scsi0:1") {
			t.Fatalf("a disk in use: %v", err)
		}
		g.must(f.Close())
		g.check("undone", 0)
		wantEntries(t, j, 0)

		no := errors.New("no")
		r := g.request()
		r.Before = func(context.Context) error { return no }
		if _, err := Take(t.Context(), Redo{}, j, r); !errors.Is(err, no) {
			t.Fatalf("freeze failed: %v", err)
		}
		g.check("not frozen", 0)
		r = g.request()
		r.After = func(context.Context) error { return no }
		if _, err := Take(t.Context(), Redo{}, j, r); !errors.Is(err, no) {
			t.Fatalf("thaw failed: %v", err)
		}
		g.check("not thawed", 0)
		ctx, cancel := context.WithCancelCause(t.Context())
		r = g.request()
		r.Before = func(context.Context) error { cancel(no); return nil }
		if _, err := Take(ctx, Redo{}, j, r); !errors.Is(err, no) {
			t.Fatalf("cancelled: %v", err)
		}
		g.check("cancelled", 0)
		wantEntries(t, j, 0)
	})
}

// TestRedoUncommittable has disks over which a log could be put, but never be
// committed again: they are refused before anything is made.
func TestRedoUncommittable(t *testing.T) {
	for name, prepare := range map[string]func(g *guest, path string){
		"tracked": func(g *guest, path string) {
			b, err := os.ReadFile(path)
			g.must(err)
			b = []byte(strings.Replace(string(b), "createType=", "changeTrackPath=\"disk1-ctk.vmdk\"\ncreateType=", 1))
			g.must(os.WriteFile(path, b, 0o600))
		},
		"named": func(g *guest, path string) {
			other := filepath.Join(filepath.Dir(path), "other.vmx")
			g.must(os.WriteFile(other, []byte("scsi0:0.fileName = \""+filepath.Base(path)+"\"\n"), 0o600))
		},
		"compressed": func(g *guest, path string) {
			for _, f := range []string{path, strings.TrimSuffix(path, ".vmdk") + "-flat.vmdk"} {
				g.must(os.Remove(f))
			}
			w, err := vmdk.Create(vmdk.CreateSpec{Dir: filepath.Dir(path), Name: filepath.Base(path), Format: vmdk.FormatStream, SizeBytes: 1 << 20})
			g.must(err)
			_, err = w.WriteAt(make([]byte, 1<<16), 0)
			g.must(errors.Join(err, w.Close()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			g, j := newGuest(t, false), testJournal(t)
			prepare(g, filepath.Join(filepath.Dir(g.vmx), diskName(1)))
			s, err := Take(t.Context(), Redo{}, j, g.request())
			if !errors.Is(err, disk.ErrUnsupported) || !strings.Contains(err.Error(), "disk scsi0:1: a redo log over it could not be committed") {
				t.Errorf("got %v", err)
			}
			if err == nil {
				t.Errorf("its release: %v", s.Release(t.Context(), true))
			}
			if logs, _ := filepath.Glob(filepath.Join(filepath.Dir(g.vmx), "*-00000*")); len(logs) > 0 {
				t.Errorf("left: %v", logs)
			}
		})
	}
}
