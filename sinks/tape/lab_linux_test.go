// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"cmp"
	"os"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/tapelab"
	"github.com/vmstream/vmstream/internal/testenv"
)

// guestLimit is how long a guest may take on a slow machine.
const guestLimit = 10 * time.Minute

// guestTools are what is in the guest besides the tests.
var guestTools = tapelab.Options{
	Tools: []string{"busybox", "mtx"}, Links: []string{"sh", "dd", "tar", "mt", "cat", "cmp", "gzip"},
	Tapes: 6, Capacity: labCapacity, Warning: labWarning,
}

// runInGuest has tests run in a guest with a tape library.
func runInGuest(t *testing.T, o tapelab.Options, pattern string) {
	t.Helper()
	testenv.Long(t)
	o.Program = tapelab.BuildTest(t, "sinks/tape")
	o.Args = []string{"-test.v", "-test.count=1", "-test.run=" + pattern}
	begin := time.Now()
	out, code := tapelab.Start(t, o).Wait(t, guestLimit)
	t.Logf("%v\n%s", time.Since(begin), out)
	if code != 0 {
		t.Errorf("the tests in the guest end with status %d", code)
	}
}

// TestLab has the tests below that begin with TestLab run in a guest with small tapes.
func TestLab(t *testing.T) { runInGuest(t, guestTools, cmp.Or(os.Getenv("LABRUN"), "^TestLab[A-Z]")) }

// TestBigLab has those run that begin with TestBigLab, with tapes that have more room.
func TestBigLab(t *testing.T) {
	o := guestTools
	o.Tapes, o.Capacity = 2, 160<<20
	runInGuest(t, o, cmp.Or(os.Getenv("LABRUN"), "^TestBigLab[A-Z]"))
}
