// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
)

func testJournal(t testing.TB) *Journal {
	t.Helper()
	j, err := OpenJournal(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	return j
}

type testData struct{ Files []string }

func TestJournal(t *testing.T) {
	j := testJournal(t)
	e, err := j.Begin(Record{Provider: "test", BackupID: "b1", Source: "/vms/web01"})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Save("made", testData{[]string{"a", "b"}}); err != nil {
		t.Fatal(err)
	}
	id := e.Record().ID
	if _, err := j.Open(id); !errors.Is(err, disk.ErrInUse) {
		t.Fatalf("a record whose run is there: %v", err)
	}
	l, err := j.List()
	if err != nil || len(l) != 1 || !l[0].Alive || l[0].Phase != "made" || l[0].PID != os.Getpid() || l[0].Err != nil {
		t.Fatalf("list: %+v, %v", l, err)
	}
	if err := e.Close(); err != nil { // as when the process is gone
		t.Fatal(err)
	}
	if l, err := j.List(); err != nil || len(l) != 1 || l[0].Alive {
		t.Fatalf("list: %+v, %v", l, err)
	}
	e, err = j.Open(id)
	if err != nil {
		t.Fatal(err)
	}
	var d testData
	if err := e.Load(&d); err != nil || len(d.Files) != 2 || e.Record().BackupID != "b1" {
		t.Fatalf("%+v, %v", d, err)
	}
	if err := e.End(); err != nil {
		t.Fatal(err)
	}
	if l, err := j.List(); err != nil || len(l) != 0 {
		t.Fatalf("list: %+v, %v", l, err)
	}
	if _, err := j.Open(id); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a record that was ended: %v", err)
	}
}

func TestJournalLeftovers(t *testing.T) {
	j := testJournal(t)
	dir := filepath.Join(j.dir, "20260101T000000Z-00000000")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if l, err := j.List(); err != nil || len(l) != 0 || !exists(dir) {
		t.Fatalf("a directory of a run that is just beginning: %+v, %v", l, err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(dir, old, old); err != nil {
		t.Fatal(err)
	}
	if l, err := j.List(); err != nil || len(l) != 0 || exists(dir) {
		t.Fatalf("a directory without a record: %+v, %v", l, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, recordName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := j.List(); err != nil || len(l) != 1 || !errors.Is(l[0].Err, disk.ErrCorrupt) {
		t.Fatalf("a broken record: %+v, %v", l, err)
	}
}

func TestJournalPrivate(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenJournal(dir); !errors.Is(err, disk.ErrUnsupported) {
		t.Fatalf("a directory that everybody can write to: %v", err)
	}
	j := testJournal(t)
	for _, id := range []string{"", ".", "..", "../x", "x/../../y", `a\b`} {
		if _, err := j.Open(id); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("id %q: %v", id, err)
		}
	}
}

// stub is a provider that leaves a file behind.
type stub struct {
	path string
	fail error
}

func (s *stub) Name() string { return "stub" }

func (s *stub) Create(ctx context.Context, r *Request, e *Entry) (*Snapshot, error) {
	if err := e.Save("file", testData{[]string{s.path}}); err != nil {
		return nil, err
	}
	err := r.Moment(ctx, func(context.Context) error { return os.WriteFile(s.path, nil, 0o600) })
	if err = errors.Join(err, s.fail); err != nil {
		return nil, errors.Join(err, s.undo(e))
	}
	return &Snapshot{Consistency: Crash, OnRelease: func(context.Context, bool) error { return s.undo(e) }}, nil
}

func (s *stub) undo(e *Entry) error {
	var d testData
	if err := e.Load(&d); err != nil {
		return err
	}
	for _, f := range d.Files {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return e.End()
}

func (s *stub) Reap(_ context.Context, e *Entry, _ Voice) error { return s.undo(e) }

func TestTakeAndReap(t *testing.T) {
	j := testJournal(t)
	p := &stub{path: filepath.Join(t.TempDir(), "left")}
	var calls []string
	r := &Request{
		BackupID: "b", Before: func(context.Context) error { calls = append(calls, "before"); return nil },
		After: func(context.Context) error { calls = append(calls, "after"); return nil },
	}
	s, err := Take(t.Context(), p, j, r)
	if err != nil || len(calls) != 2 || !exists(p.path) {
		t.Fatalf("%v, %v", calls, err)
	}
	if err := errors.Join(s.Release(t.Context(), true), s.Release(t.Context(), true)); err != nil || exists(p.path) {
		t.Fatal(err)
	}

	// A run that is killed leaves the record, and what it has made.
	if s, err = Take(t.Context(), p, j, r); err != nil {
		t.Fatal(err)
	}
	id := s.entry.Record().ID
	if err := Reap(t.Context(), j, id, []Provider{p}, Voice{}); !errors.Is(err, disk.ErrInUse) {
		t.Fatalf("a run that is there: %v", err)
	}
	_ = s.entry.Close()
	if err := Reap(t.Context(), j, id, nil, Voice{}); !errors.Is(err, disk.ErrUnsupported) {
		t.Fatalf("no such provider: %v", err)
	}
	if err := Reap(t.Context(), j, id, []Provider{p}, Voice{}); err != nil || exists(p.path) {
		t.Fatal(err)
	}
	if l, _ := j.List(); len(l) != 0 {
		t.Fatalf("left: %+v", l)
	}

	// What fails undoes itself, and After is called once Before was.
	p.fail = errors.New("no")
	calls = nil
	if _, err := Take(t.Context(), p, j, r); !errors.Is(err, p.fail) || exists(p.path) || len(calls) != 2 {
		t.Fatalf("%v, %v", calls, err)
	}
	if l, _ := j.List(); len(l) != 0 {
		t.Fatalf("left: %+v", l)
	}
}

// TestReleaseOnFullDisk has the journal take nothing any more: the snapshot goes
// all the same.
func TestReleaseOnFullDisk(t *testing.T) {
	eachNaming(t, func(t *testing.T, esx2 bool) {
		for _, host := range []bool{false, true} {
			g, j := newGuest(t, esx2), testJournal(t)
			var p Provider = Redo{}
			if host {
				p = g.exec()
			}
			r := g.request()
			r.Warn = func(s string) { t.Log(s) }
			s, err := Take(t.Context(), p, j, r)
			g.must(err)
			g.must(os.Mkdir(filepath.Join(s.entry.dir, recordName+".tmp"), 0o700)) // in the way of the next record
			if err := s.entry.Save("x", nil); err == nil {
				t.Fatal("it can be written")
			}
			g.must(s.Release(t.Context(), true))
			g.check("released", 0)
			wantEntries(t, j, 0)
		}
	})
}

// TestDamagedRecord reaps what no run has written.
func TestDamagedRecord(t *testing.T) {
	j := testJournal(t)
	for _, p := range []Provider{Redo{}, &Exec{}} {
		for _, text := range []string{`{"levels": [null], "disks": [null], "begun": true, "config": "/nowhere/g.vmx"}`, `{"levels": [null], "disks": [null], "begun": true, "roll": true}`, `{"levels": 7, "disks": 7}`} {
			e, err := j.Begin(Record{Provider: p.Name()})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(e.Save("x", json.RawMessage(text)), e.Close()); err != nil {
				t.Fatal(err)
			}
			if err := Reap(t.Context(), j, e.Record().ID, []Provider{p}, Voice{}); !errors.Is(err, disk.ErrCorrupt) {
				t.Errorf("%s of %s: %v", p.Name(), text, err)
			}
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"format":"vmstream-snapshot/1","id":"x","provider":"qmp","phase":"made","data":{"files":["a"]}}`))
	f.Add([]byte(`{"format":"vmstream-snapshot/2"}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if rec, err := parseRecord("x", b); err == nil && rec.Format != recordFormat {
			t.Fatalf("%+v", rec)
		}
	})
}
