// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/scsilab"
)

// guestLimit is how long a guest may take on a slow machine.
const guestLimit = 10 * time.Minute

// guestTools are what is in the guest besides the tests.
var guestTools = scsilab.Options{
	Tools: []string{"busybox", "mtx"}, Links: []string{"sh", "dd", "tar", "mt", "cat", "cmp", "gzip"},
	Tapes: 6, Capacity: labCapacity, Warning: labWarning,
}

// needsLab skips a test that boots guests, unless it was asked for.
func needsLab(t *testing.T) {
	t.Helper()
	if os.Getenv("VMSTREAM_LAB") != "1" {
		t.Skip("boots a guest with tape drives: make lab")
	}
}

// runInGuest has tests run in a guest with a tape library.
func runInGuest(t *testing.T, o scsilab.Options, pattern string) {
	t.Helper()
	needsLab(t)
	o.Program = scsilab.BuildTest(t, "sinks/tape")
	o.Args = []string{"-test.v", "-test.count=1", "-test.run=" + pattern}
	begin := time.Now()
	out, code := scsilab.Start(t, o).Wait(t, guestLimit)
	t.Logf("%v\n%s", time.Since(begin), out)
	if code != 0 {
		t.Errorf("the tests in the guest end with status %d", code)
	}
}

// TestLab has the tests below that begin with TestLab run in a guest with small tapes.
func TestLab(t *testing.T) { runInGuest(t, guestTools, "^TestLab[A-Z]") }

// TestBigLab has those run that begin with TestBigLab, with tapes that have more room.
func TestBigLab(t *testing.T) {
	o := guestTools
	o.Tapes, o.Capacity = 2, 160<<20
	runInGuest(t, o, "^TestBigLab[A-Z]")
}

// TestPowerLab cuts the power while a stream is written. Those before are there, and
// the tape can be written on; the virtual drive sees the same on it.
func TestPowerLab(t *testing.T) {
	needsLab(t)
	o := guestTools
	o.Tapes, o.Capacity = 2, 64<<20
	o.Image = scsilab.MakeImage(t, o)
	o.Program = scsilab.BuildTest(t, "sinks/tape")
	o.Args = []string{"-test.v", "-test.run=TestPowerLabBefore"}
	for _, line := range []string{"written 9 MiB", "written 6 MiB"} { // 4 of them are in memory
		before := scsilab.Start(t, o)
		before.WaitLine(t, line, guestLimit)
		before.Kill()
		image, err := os.ReadFile(o.Image)
		if err != nil {
			t.Fatal(err)
		}
		dir := virtualDir(t, "")
		insert(t, dir, image[:o.RegionBytes()])
		s, _ := openTarget(t, "tape:"+dir)
		if _, err := s.Stat(t.Context(), "kept-1"); err != nil {
			t.Fatal(err)
		}
		if n := len(s.vol.drive.(*virtual).tap.blocks); int64(n) <= s.vol.end {
			t.Errorf("%d blocks: nothing was being written", n)
		}
		for i, n := range powerKept {
			mustGet(t, s, fmt.Sprint("kept-", i), content(n, i))
		}
		after := o
		after.Args = []string{"-test.v", "-test.run=TestPowerLabAfter"}
		if out, code := scsilab.Start(t, after).Wait(t, guestLimit); code != 0 {
			t.Errorf("after the power has failed: status %d\n%s", code, out)
		}
		o.Image = scsilab.MakeImage(t, o)
	}
}
