// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi_test

import (
	"os"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/scsilab"
)

// TestLab has the tests below that begin with TestLab run in a guest with real LUNs.
func TestLab(t *testing.T) {
	if os.Getenv("VMSTREAM_LAB") != "1" {
		t.Skip("boots a guest with LUNs: make lab")
	}
	o := scsilab.Options{LUNs: true, Program: scsilab.BuildTest(t, "scsi"), Args: []string{"-test.v", "-test.count=1", "-test.run=^TestLab[A-Z]"}}
	begin := time.Now()
	out, code := scsilab.Start(t, o).Wait(t, 10*time.Minute)
	t.Logf("%v\n%s", time.Since(begin), out)
	if code != 0 {
		t.Errorf("the tests in the guest end with status %d", code)
	}
}
