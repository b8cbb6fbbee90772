// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/guestlab"
	"github.com/vmstream/vmstream/internal/testenv"
)

// killPoint is when a backup is killed: as soon as reached reports true. One
// that is late can be after the backup's end, as far as the next one goes: the
// killed backup may then be what the hypervisor counts changes from.
type killPoint struct {
	name    string
	late    bool
	reached func(r *doomed) bool
}

// doomed is a backup that runs to be killed.
type doomed struct {
	t       *testing.T
	chain   *guestChain
	sink    *guestSink
	begin   time.Time
	delay   time.Duration // of the kill points by chance
	touched bool          // something has been beside the disks
}

// busy reports if something of the backup lies beside the guest's disks. QEMU
// is not asked for its nodes while they change: 7.2 can end with an assertion in
// qcow2_get_specific_info if another monitor asks while a node is being made.
func (r *doomed) busy() bool {
	busy := len(names(r.t, filepath.Dir(r.chain.g.Disks[0]))) > len(r.chain.g.Disks)
	r.touched = r.touched || busy
	return busy
}

// lists reports if QEMU answers a query with a list that is not empty.
func (r *doomed) lists(query string) bool {
	var list []any
	if err := r.chain.g.Command(query, nil, &list); err != nil {
		r.t.Fatal(err)
	}
	return len(list) > 0
}

func (r *doomed) waited() bool { return time.Since(r.begin) >= r.delay }

// killPoints are the phases of a backup, in their order as far as they have
// one, and moments by chance from before the snapshot to after its release.
var killPoints = []killPoint{
	{"noted", false, func(r *doomed) bool { return r.chain.noted(r.t) }},
	{"beside the disks", false, (*doomed).busy},
	{"exported", false, func(r *doomed) bool { return r.lists("query-block-exports") }},
	{"by chance", true, (*doomed).waited},
	{"by chance", true, (*doomed).waited},
	{"stream begun", false, func(r *doomed) bool { return r.sink.written.Load() > 0 }},
	{"in the stream", false, func(r *doomed) bool { return r.sink.written.Load() > 1<<20 }},
	{"job", true, func(r *doomed) bool { return r.lists("query-jobs") }},
	{"released", true, func(r *doomed) bool { return !r.busy() && r.touched }},
	{"by chance", true, (*doomed).waited},
}

// noted reports if there is a file in the state directory.
func (c *guestChain) noted(t *testing.T) bool {
	t.Helper()
	found := false
	// A file may go while it is looked for.
	_ = filepath.WalkDir(c.state, func(_ string, d fs.DirEntry, err error) error {
		found = found || err == nil && d.Type().IsRegular()
		return nil
	})
	return found
}

// killAt runs the next backup and kills it when it has reached a point. If it
// has ended well before that, it is a link of the chain like others, and false is
// returned.
func (c *guestChain) killAt(t *testing.T, p killPoint, delay time.Duration) bool {
	t.Helper()
	cmd, link := c.command(t)
	r := &doomed{t: t, chain: c, sink: newGuestSink(t, c.g, link.stream), delay: delay, begin: time.Now()}
	cmd.Stdout = r.sink
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !p.reached(r) {
		select {
		case err := <-ended:
			return !c.survived(t, cmd, err, r, link)
		case <-tick.C:
		}
	}
	_ = cmd.Process.Kill() // it may have ended
	err := <-ended
	if cmd.ProcessState.Exited() {
		return !c.survived(t, cmd, err, r, link)
	}
	r.sink.close(t)
	return true
}

// survived adds a backup that was not killed to the chain.
func (c *guestChain) survived(t *testing.T, cmd *exec.Cmd, err error, r *doomed, link guestLink) bool {
	t.Helper()
	if code := exitCode(t, err); code != 0 {
		t.Fatalf("backup that was to be killed: exit code %d\n%s", code, cmd.Stderr)
	}
	link.at = r.sink.close(t)
	c.links = append(c.links, link)
	return true
}

// TestKilledGuestBackup kills backups of a running guest in every phase. The
// guest goes on, what is left is listed and reaped, and what is backed up
// then, in full or on the last backup that ended well, is right.
func TestKilledGuestBackup(t *testing.T) {
	testenv.Long(t)
	rng := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano()))) //nolint:gosec // by chance is meant
	guests := 0
	for _, format := range guestlab.Formats {
		for _, mode := range qmpModes {
			points := someKillPoints(guests)
			guests++
			t.Run(format+"-"+mode, func(t *testing.T) {
				c := newGuestChain(t, mode, guestlab.Options{Format: format, Disks: disksOf(format)})
				c.backup(t)
				for _, p := range points {
					c.killOne(t, p, time.Duration(rng.Int64N(int64(c.took)*5/4)))
					c.check(t)
				}
				c.full()
				for range 2 {
					c.backup(t)
					c.check(t)
				}
				if b := c.g.State(t).Bitmaps; len(b) > maxBitmaps*len(c.g.Disks) {
					t.Errorf("bitmaps pile up: %q", b)
				}
			})
		}
	}
}

// maxBitmaps is how many dirty bitmaps a disk may have: those of the last
// backups, so that an increment can be made again, and none of killed ones.
const maxBitmaps = 3

// someKillPoints returns every third kill point from one on that depends on
// the guest's number, so that all of them have their turn with several guests;
// all with VMSTREAM_GUEST=full.
func someKillPoints(guest int) []killPoint {
	if os.Getenv("VMSTREAM_GUEST") == "full" {
		return killPoints
	}
	var some []killPoint
	for i := guest % 3; i < len(killPoints); i += 3 {
		some = append(some, killPoints[i])
	}
	return some
}

// killOne kills a backup, has what it left removed, and backs the guest up on
// the last backup that ended well. Every other backup that is killed is a full
// one.
func (c *guestChain) killOne(t *testing.T, p killPoint, delay time.Duration) {
	t.Helper()
	links := c.links
	if c.kills++; c.kills%2 == 0 {
		c.full()
	}
	full := len(c.links) == 0
	killed := c.killAt(t, p, delay)
	t.Logf("%s: killed: %v; full: %v; by chance would be after %v of %v", p.name, killed, full, delay, c.took)
	if killed {
		c.links = links
	}
	c.reap(t)
	code, _ := c.try(t)
	if code == 5 && killed && p.late {
		t.Log("no increment on the backup before")
		c.full()
		code, _ = c.try(t)
	}
	if code != 0 {
		t.FailNow()
	}
}

// reap has what a killed backup left listed, and removes it.
func (c *guestChain) reap(t *testing.T) {
	t.Helper()
	c.g.Check(t)
	left := c.snapshots(t)
	before := c.g.State(t)
	if err := before.Clean(c.began); err != nil && len(left) == 0 {
		t.Errorf("left and not listed: %v", err)
	}
	cmd := vmstream(t, "snapshot", "reap", "--state-dir", c.state)
	if code := exitCode(t, cmd.Run()); code != 0 {
		t.Fatalf("snapshot reap: exit code %d; %q\n%s", code, left, cmd.Stderr)
	}
	c.g.Check(t)
	c.clean(t)
}
