// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"os"
	"testing"
)

// labDrive is the drive of the lab, see internal/tapelab.
func labDrive(t *testing.T) string {
	t.Helper()
	path := os.Getenv("TAPE_NST")
	if path == "" {
		t.Skip("runs in the lab: make lab-tape")
	}
	return path
}

func TestLabDrive(t *testing.T) {
	path := labDrive(t)
	s := &transcript{t: t, open: func() (drive, error) { return openDevice(path, true) }}
	if os.Getenv("TAPE_RECORD") != "" {
		t.Log("\n" + s.run())
		return
	}
	s.compare()
}
