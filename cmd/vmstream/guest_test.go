// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/guestlab"
	"github.com/vmstream/vmstream/internal/testenv"
)

// qmpModes are the ways to back a running guest up over QMP.
var qmpModes = []string{"fleece", "overlay"}

const (
	guestBytes   = 256 << 20 // of a guest's disk
	guestBallast = 24 << 20  // of it, so that a backup is in its middle for a while
)

// guestPauses are where the reader of a stream stops until the guest has
// written pauseRecords more. By the first, disks have been read.
var guestPauses = []int64{64 << 10, 4 << 20, 16 << 20}

const pauseRecords = 25

// guestChain is a full backup of a running guest and the increments on it.
type guestChain struct {
	g     *guestlab.Guest
	began guestlab.State // of QEMU before the first backup
	dir   string         // of the streams, apart from the guest's disks
	state string         // where vmstream notes snapshots
	mode  string
	trims bool // of the guest, in the middle of a backup
	taken int  // ids that were given away
	kills int  // of backups
	links []guestLink
	took  time.Duration // by the last backup
}

// guestLink is one backup.
type guestLink struct {
	stream, index string
	at            guestlab.Range // of records at its point in time
}

func newGuestChain(t *testing.T, mode string, o guestlab.Options) *guestChain {
	t.Helper()
	o.SizeBytes, o.Ballast = guestBytes, guestBallast
	c := &guestChain{g: guestlab.Start(t, o), dir: t.TempDir(), state: filepath.Join(t.TempDir(), "state"), mode: mode}
	t.Logf("%s: first record after %v", c.g.Format, c.g.BootTime.Round(10*time.Millisecond))
	c.g.WaitRecord(t, 40)
	c.began = c.g.State(t)
	return c
}

// command returns the command of the next backup, on the last link if there is
// one, and what it will make.
func (c *guestChain) command(t *testing.T) (*exec.Cmd, guestLink) {
	t.Helper()
	c.taken++
	id := fmt.Sprintf("backup-%d", c.taken)
	link := guestLink{stream: filepath.Join(c.dir, id+".tar"), index: filepath.Join(c.dir, id+".json")}
	args := []string{
		"backup", "--json", "--snapshot", "qmp", "--qmp", c.g.QMP, "--qmp-mode", c.mode, "--state-dir", c.state,
		"--name", "guest", "--id", id, "--index-out", link.index,
		"--extent-size", "1M", "--workers", "1", // it does not read ahead of who reads the stream
	}
	if len(c.links) > 0 {
		args = append(args, "--since", c.links[len(c.links)-1].index)
	}
	return vmstream(t, args...), link
}

// full begins a new chain with the next backup.
func (c *guestChain) full() { c.links = nil }

// guestSink stores a stream, and makes the backup wait while the guest writes and
// discards what is free.
type guestSink struct {
	w       io.WriteCloser
	g       *guestlab.Guest
	written atomic.Int64
	pauses  []int64
	trims   bool
	at      guestlab.Range // Max once something of a disk has come
}

func newGuestSink(t *testing.T, g *guestlab.Guest, path string) *guestSink {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	return &guestSink{w: f, g: g, pauses: guestPauses, at: guestlab.Range{Min: g.LastDurable()}}
}

// Write stores a part of the stream.
func (s *guestSink) Write(b []byte) (int, error) {
	for at := s.written.Add(int64(len(b))); len(s.pauses) > 0 && at >= s.pauses[0]; s.pauses = s.pauses[1:] {
		if s.at.Max == 0 {
			s.at.Max = s.g.LastDurable() + 1
		}
		if err := s.g.More(pauseRecords); err != nil {
			return 0, err
		}
		if s.trims {
			if err := s.g.Trim(); err != nil {
				return 0, err
			}
		}
	}
	return s.w.Write(b)
}

// close ends the stream and returns the records that can be the last in it.
func (s *guestSink) close(t *testing.T) guestlab.Range {
	t.Helper()
	if err := s.w.Close(); err != nil {
		t.Fatal(err)
	}
	if s.at.Max == 0 { // a small one
		s.at.Max = s.g.LastDurable() + 1
	}
	return s.at
}

// backup backs the guest up while it writes, and reports how long that held it
// up.
func (c *guestChain) backup(t *testing.T) {
	t.Helper()
	if code, _ := c.try(t); code != 0 {
		t.FailNow()
	}
}

// try is backup that may fail.
func (c *guestChain) try(t *testing.T) (code int, stderr string) {
	t.Helper()
	cmd, link := c.command(t)
	sink := newGuestSink(t, c.g, link.stream)
	sink.trims = c.trims
	cmd.Stdout = sink
	begin := time.Now()
	err := cmd.Run()
	took := time.Since(begin)
	stderr = cmd.Stderr.(*bytes.Buffer).String()
	link.at = sink.close(t)
	if code = exitCode(t, err); code == 0 {
		c.took = took
		c.links = append(c.links, link)
	}
	if code != 0 {
		t.Logf("backup %d: exit code %d\n%s", c.taken, code, stderr)
	}
	c.g.Check(t) // it goes on, and what held it up has ended
	c.clean(t)
	if code == 0 {
		c.report(t, stderr, took, c.g.StallSince(begin))
	}
	return code, stderr
}

// report logs what a backup cost the guest.
func (c *guestChain) report(t *testing.T, events string, took time.Duration, stall guestlab.Stall) {
	t.Helper()
	var summary struct {
		Type        string   `json:"type"`
		Consistency string   `json:"consistency"`
		StreamBytes int64    `json:"stream_bytes"`
		Stall       *float64 `json:"stall_seconds"`
		Snapshot    *float64 `json:"snapshot_seconds"`
	}
	lines := strings.Split(strings.TrimSpace(events), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &summary); err != nil {
		t.Fatalf("%v\n%s", err, events)
	}
	if summary.Type != "summary" || summary.Consistency != "crash" || summary.Stall == nil || summary.Snapshot == nil {
		t.Fatalf("no summary of a crash-consistent backup with stall and lifetime of its snapshot:\n%s", events)
	}
	if *summary.Snapshot <= 0 || *summary.Snapshot > took.Seconds() || *summary.Stall <= 0 || *summary.Stall > took.Seconds() {
		t.Errorf("a snapshot of %f s that stopped the guest for %f s, in a backup of %v", *summary.Snapshot, *summary.Stall, took)
	}
	t.Logf("%s %s: link %d, %.1f MiB in %.2f s; snapshot %.2f s, stall told %.0f ms; guest: %v", c.g.Format, c.mode, len(c.links)-1,
		float64(summary.StreamBytes)/(1<<20), took.Seconds(), *summary.Snapshot, *summary.Stall*1e3, stall)
}

// check restores the guest as the last link has it and looks at its disks,
// which are returned.
func (c *guestChain) check(t *testing.T) []string {
	t.Helper()
	dir := filepath.Join(c.dir, "restored")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	args := []string{"restore", "-q", "-C", dir, "--format", "raw"}
	for _, l := range c.links {
		args = append(args, "--from", l.stream)
	}
	cmd := vmstream(t, args...)
	if code := exitCode(t, cmd.Run()); code != 0 {
		t.Fatalf("restore of %d links: exit code %d\n%s", len(c.links), code, cmd.Stderr)
	}
	images, err := filepath.Glob(filepath.Join(dir, "*", "*.raw"))
	if err != nil || len(images) != len(c.g.Disks) {
		t.Fatalf("%q restored, %v; the guest has %d disks", images, err, len(c.g.Disks))
	}
	slices.Sort(images)
	at := c.links[len(c.links)-1].at
	n := guestlab.CheckRestored(t, at, images...)
	t.Logf("link %d: %d records, %d to %d expected, %d written by now; %d extents with explicit zeros", len(c.links)-1, n, at.Min, at.Max, c.g.LastDurable(), c.zeroExtents(t))
	return images
}

// zeroExtents returns how many extents of the last link have grains that are zero
// whatever the parent has: their header has version 2.
func (c *guestChain) zeroExtents(t *testing.T) (n int) {
	t.Helper()
	f, err := os.Open(c.links[len(c.links)-1].stream)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		if _, err := r.Next(); errors.Is(err, io.EOF) {
			return n
		} else if err != nil {
			t.Fatal(err)
		}
		var head [8]byte
		if _, err := io.ReadFull(r, head[:]); err == nil && string(head[:]) == "KDMV\x02\x00\x00\x00" {
			n++
		}
	}
}

// clean fails the test if a backup has left something: in QEMU, beside the
// disks, or noted.
func (c *guestChain) clean(t *testing.T) {
	t.Helper()
	if err := c.g.State(t).Clean(c.began); err != nil {
		t.Fatalf("QEMU is not as it was: %v", err)
	}
	var want []string
	for _, path := range c.g.Disks {
		want = append(want, filepath.Base(path))
	}
	if got := names(t, filepath.Dir(c.g.Disks[0])); !slices.Equal(got, want) {
		t.Fatalf("beside the disks: %q, want %q", got, want)
	}
	if left := c.snapshots(t); len(left) != 0 {
		t.Fatalf("snapshots are noted: %q", left)
	}
}

// snapshots returns the snapshots that are listed, a JSON object each.
func (c *guestChain) snapshots(t *testing.T) []string {
	t.Helper()
	cmd := vmstream(t, "snapshot", "list", "--json", "--state-dir", c.state)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("snapshot list: %v\n%s", err, cmd.Stderr)
	}
	var left []string
	for line := range strings.Lines(string(out)) {
		if !json.Valid([]byte(line)) {
			t.Fatalf("snapshot list: %q", line)
		}
		left = append(left, strings.TrimSpace(line))
	}
	return left
}

// TestRunningGuest backs a guest up while it writes, in full and three times
// what has changed since, and restores each chain: its disks are those of one
// point in time before the first of the stream came out, and the guest starts
// on them.
func TestRunningGuest(t *testing.T) {
	testenv.Long(t)
	for _, format := range guestlab.Formats {
		for _, mode := range qmpModes {
			t.Run(format+"-"+mode, func(t *testing.T) {
				c := newGuestChain(t, mode, guestlab.Options{Format: format, Disks: disksOf(format)})
				var restored []string
				for link := range 4 {
					c.trims = link > 1
					c.backup(t)
					restored = c.check(t)
					// QEMU does not pass on to vmdk disks what a guest discards.
					if link == 1 && format != "vmdk" && c.zeroExtents(t) == 0 {
						t.Error("the increment has no explicit zeros, though the guest has discarded all that is free")
					}
					c.g.WaitMore(t, 40)
					if link == 0 {
						if err := c.g.Trim(); err != nil {
							t.Fatal(err)
						}
					}
				}
				c.g.Kill() // it has the processor for itself
				again := guestlab.Start(t, guestlab.Options{Reuse: restored})
				again.WaitMore(t, 10)
				again.Kill()
				guestlab.CheckRestored(t, guestlab.Range{Min: again.LastDurable(), Max: again.LastDurable() + 1}, restored...)
			})
		}
	}
}

// disksOf gives guests of one format two disks, so that a snapshot has to hold
// several at one moment.
func disksOf(format string) int {
	if format == "qcow2" {
		return 2
	}
	return 1
}
