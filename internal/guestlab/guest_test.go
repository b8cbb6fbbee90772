// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package guestlab

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/guestlab/record"
	"github.com/vmstream/vmstream/internal/testenv"
)

// TestPowerCut kills a guest while it writes: what it had called durable is on
// its disks. A guest that starts again on them carries on.
func TestPowerCut(t *testing.T) {
	testenv.Long(t)
	for _, o := range []Options{{Format: "raw"}, {Format: "qcow2", Disks: 2}, {Format: "vmdk"}} {
		t.Run(fmt.Sprintf("%s-%d", o.Format, max(o.Disks, 1)), func(t *testing.T) {
			begin := time.Now()
			g := Start(t, o)
			g.WaitRecord(t, 60)
			if err := g.Alive(); err != nil {
				t.Error(err)
			}
			s := g.StallSince(begin.Add(g.BootTime))
			g.Kill()
			last := g.LastDurable()
			t.Logf("first record after %v; %v", g.BootTime.Round(10*time.Millisecond), s)
			if err := g.Alive(); err == nil {
				t.Error("a guest that was killed is alive")
			}
			if s.Host <= 0 || s.Guest <= 0 || s.Records < 40 {
				t.Errorf("%+v: not measured", s)
			}
			n := CheckRestored(t, Range{last, last + 1}, rawDisks(t, g)...)
			again := Start(t, Options{Format: o.Format, Reuse: g.Disks})
			again.WaitRecord(t, n+20)
			again.Kill()
			last = again.LastDurable()
			CheckRestored(t, Range{last, last + 1}, rawDisks(t, again)...)
		})
	}
}

func rawDisks(t *testing.T, g *Guest) []string {
	t.Helper()
	var raw []string
	for _, path := range g.Disks {
		if g.Format != "raw" {
			path = ToRaw(t, path, g.Format)
		}
		raw = append(raw, path)
	}
	return raw
}

// TestExamine damages the disks of a guest in the ways that a wrong backup
// would: each is found.
func TestExamine(t *testing.T) {
	testenv.Long(t)
	g := Start(t, Options{Disks: 2, SizeBytes: 96 << 20, Ballast: 1 << 20})
	g.WaitRecord(t, 100)
	early := copyDisk(t, g.Disks[0]) // of no one point in time: it is copied while the guest writes
	g.WaitMore(t, 300)               // more than a file of records
	g.Kill()
	n := CheckRestored(t, Range{Min: g.LastDurable()}, g.Disks...)
	refuse := func(want string, r Range, images ...string) {
		t.Helper()
		if got, err := Examine(t, r, images...); err == nil {
			t.Errorf("want %q; %d records are called good", want, got)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("want %q; got %v", want, err)
		}
	}
	whatever := Range{}
	refuse("had been durable", Range{Min: n + 1}, g.Disks...)
	refuse("can have been written", Range{Max: n - 2}, g.Disks...)
	refuse("record 1 of disk 1", whatever, g.Disks[1])
	refuse("", whatever, early, g.Disks[1])

	// Which block has which record: the payload of a record is found by its head.
	first, second := recordAt(t, g.Disks[0], 57), recordAt(t, g.Disks[0], 58)
	refuse("checksum", whatever, damaged(t, g.Disks[0], func(b []byte) { b[first+2000] ^= 1 }))
	refuse("begins with 00", whatever, damaged(t, g.Disks[0], func(b []byte) { clear(b[first : first+4096]) }))
	refuse("comes record 58", whatever, damaged(t, g.Disks[0], func(b []byte) { copy(b[first:first+4096], b[second:second+4096]) }))

	refuse("never changes", whatever, damaged(t, g.Disks[0], func(b []byte) { b[bytes.Index(b, ballast(1 << 20)[:4096])+5] ^= 1 }))

	// Well-formed file systems with something missing in them.
	for want, commands := range map[string][]string{
		"follows 0 records":     {"rm /records/000000"},
		"follows 256 records":   {"ln /records/000001 /records/000002", "unlink /records/000001"},
		"is not the name":       {"ln /records/000001 /records/x", "unlink /records/000001"},
		"no such file":          {"ln /records /r", "unlink /records"},
		"not clean":             {"clri /records/000000"},
		"not one point in time": {"rm /records/000001"},
	} {
		bad := replayed(t, g.Disks[0])
		for _, c := range commands {
			run(t, sbinTool(t, "debugfs"), "-w", "-R", c, bad)
		}
		if want != "not clean" && want != "not one point in time" {
			refuse(want, whatever, bad)
			continue
		}
		refuse(want, whatever, bad, g.Disks[1])
	}
}

func copyDisk(t *testing.T, path string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "copy")
	run(t, testenv.Tool(t, "cp"), "--sparse=always", path, out)
	return out
}

// replayed returns a copy whose journal is empty, so that what is changed in it
// is not undone.
func replayed(t *testing.T, path string) string {
	t.Helper()
	out := copyDisk(t, path)
	if _, err := foreign(t, sbinTool(t, "e2fsck"), "-p", out); err != nil && exitCode(err) != 1 {
		t.Fatal(err)
	}
	return out
}

func damaged(t *testing.T, path string, change func(b []byte)) string {
	t.Helper()
	out := replayed(t, path)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	change(b)
	if err := os.WriteFile(out, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

// recordAt returns where a record lies on a disk.
func recordAt(t *testing.T, path string, number uint64) int {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(b); at += record.Size {
		if r, err := record.Parse(b[at : at+record.Size]); err == nil && r.Number == number {
			return at
		}
	}
	t.Fatalf("%s has no record %d", path, number)
	return 0
}
