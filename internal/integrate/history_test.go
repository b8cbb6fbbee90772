// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package integrate

import (
	"errors"
	"io/fs"
	"os"
	"testing"
)

// add notes a run, with an index if it was whole.
func add(t *testing.T, h *History, j Job) {
	t.Helper()
	if err := h.Save(j); err != nil {
		t.Fatal(err)
	}
	if j.Whole {
		if err := os.WriteFile(h.IndexPath(j.ID), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if j.Stored {
		if err := h.Store(j); err != nil {
			t.Fatal(err)
		}
	}
}

func TestParent(t *testing.T) {
	h, err := OpenHistory(t.TempDir(), "bacula", "web01")
	if err != nil {
		t.Fatal(err)
	}
	for _, level := range []Level{Full, Differential, Incremental} {
		if p, err := h.Parent(level, ""); err != nil || p != nil {
			t.Fatalf("%s of an empty history: %v, %v", level, p, err)
		}
	}
	add(t, h, Job{ID: 9, Level: Full, Scheduled: "2026-11-01_10.00.00", Whole: true, Stored: true})
	add(t, h, Job{ID: 10, Level: Incremental, Scheduled: "2026-11-02_10.00.00", Whole: true, Stored: true})
	add(t, h, Job{ID: 11, Level: Incremental, Scheduled: "2026-11-03_10.00.00", Whole: true, Stored: true}) // failed on the server
	add(t, h, Job{ID: 12, Level: Incremental, Scheduled: "2026-11-04_10.00.00", Whole: true})
	add(t, h, Job{ID: 100, Level: Full, Scheduled: "2026-11-05_10.00.00"})
	for _, c := range []struct {
		level Level
		since string
		want  int64 // 0: none
	}{
		{Full, "", 0},
		{Incremental, "", 11},
		{Incremental, "2026-11-03_10.00.02", 11},
		{Incremental, "2026-11-02_10.00.02", 10},
		{Incremental, "2026-11-01_10.00.00", 9},
		{Incremental, "2026-10-01_10.00.00", 0},
		{Differential, "", 9},
		{Differential, "2026-11-01_10.00.03", 9},
	} {
		p, err := h.Parent(c.level, c.since)
		if err != nil {
			t.Fatal(err)
		}
		got := int64(0)
		if p != nil {
			got = p.ID
		}
		if got != c.want {
			t.Errorf("%s since %q: %d, want %d", c.level, c.since, got, c.want)
		}
	}
	if err := os.Remove(h.IndexPath(11)); err != nil {
		t.Fatal(err)
	}
	if p, err := h.Parent(Incremental, ""); err != nil || p == nil || p.ID != 10 {
		t.Errorf("without the index of 11: %v, %v", p, err)
	}
}

// What nothing can be an increment on is forgotten.
func TestStoreForgets(t *testing.T) {
	h, err := OpenHistory(t.TempDir(), "bacula", "web01")
	if err != nil {
		t.Fatal(err)
	}
	for id, level := range []Level{Full, Incremental, Full, Incremental, Incremental, Full, Incremental} {
		add(t, h, Job{ID: int64(id + 1), Level: level, Whole: true, Stored: id != 3})
	}
	all, err := h.Jobs()
	if err != nil {
		t.Fatal(err)
	}
	var ids []int64
	for _, j := range all {
		ids = append(ids, j.ID)
	}
	if want := []int64{3, 5, 6, 7}; len(ids) != len(want) || ids[0] != 3 || ids[1] != 5 || ids[3] != 7 {
		t.Errorf("%v is left, want %v", ids, want)
	}
	entries, err := os.ReadDir(h.dir)
	if err != nil || len(entries) != 2*len(all) {
		t.Errorf("%d files, %v", len(entries), err)
	}
}

func TestHistoryRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"", ".", "..", "a/b", "a\x00b"} {
		if _, err := OpenHistory(dir, "bacula", name); err == nil {
			t.Errorf("%q is a job", name)
		}
	}
	h, err := OpenHistory(dir, "bacula", "web01")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Load(1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no record: %v", err)
	}
	for _, content := range []string{"", "{}", "[]", `{"format":"vmstream-job/1","id":2}`, "\x00"} {
		if err := os.WriteFile(h.path(1, ".json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if j, err := h.Load(1); err == nil {
			t.Errorf("%q: %v", content, j)
		}
		if all, err := h.Jobs(); err != nil || len(all) != 0 {
			t.Errorf("%q: %v, %v", content, all, err)
		}
	}
}

func TestParseLevel(t *testing.T) {
	for s, want := range map[string]Level{
		"Full": Full, "F": Full, "Incremental": Incremental, "I": Incremental, "Differential": Differential, "D": Differential,
		"": Full, "Base": Full, "Virtual Full": Full,
	} {
		if got := ParseLevel(s); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}

func TestJobTime(t *testing.T) {
	for name, want := range map[string]string{
		"web01.2026-11-26_10.36.47_04": "2026-11-26_10.36.47", "a.b.2026-11-26_10.36.47_123": "2026-11-26_10.36.47",
		"": "", "web01": "", "2026-11-26_10.36.47": "", "web01.2026-11-26_10.36.47": "", "web01.2026-11-26_10:36:47_04": "",
	} {
		if got := JobTime(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	for s, want := range map[string]string{"2026-11-26_10.36.47": "2026-11-26_10.36.47", "*none*": "", "": "", "1795689402": ""} {
		if got := SinceTime(s); got != want {
			t.Errorf("since %q: %q, want %q", s, got, want)
		}
	}
}
