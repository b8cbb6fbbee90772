// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsilab

import (
	"os"
	"strings"
	"testing"
	"time"
)

// RunLUNTests has the tests of a package that match a regular expression run in a guest with
// LUNs, if the lab is asked for. o may say more of the guest.
func RunLUNTests(t *testing.T, dir, tests string, o Options) {
	t.Helper()
	if os.Getenv("VMSTREAM_LAB") != "1" {
		t.Skip("boots a guest with LUNs: make lab")
	}
	o.LUNs, o.Program, o.Args = true, BuildTest(t, dir), []string{"-test.v", "-test.run=" + tests}
	begin := time.Now()
	out, code := Start(t, o).Wait(t, 10*time.Minute)
	t.Logf("%v\n%s", time.Since(begin), out)
	if code != 0 || !strings.Contains(out, "--- PASS: ") {
		t.Errorf("the tests in the guest end with status %d", code)
	}
}
