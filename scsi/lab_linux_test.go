// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi_test

import (
	"testing"

	"github.com/vmstream/vmstream/internal/scsilab"
)

// TestLab has the tests below that begin with TestLab run in a guest with real LUNs.
func TestLab(t *testing.T) {
	scsilab.RunLUNTests(t, "scsi", "^TestLab[A-Z]", scsilab.Options{})
}
