// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"errors"
	"strings"
	"syscall"
	"testing"
)

// TestFullDisk: an error that names the file, and nothing left.
func TestFullDisk(t *testing.T) {
	for _, format := range Formats() {
		t.Run(string(format), func(t *testing.T) {
			dir := t.TempDir()
			if err := syscall.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
				t.Skipf("needs the right to mount a tmpfs: %v", err)
			}
			t.Cleanup(func() { _ = syscall.Unmount(dir, 0) })
			w, _ := create(t, CreateSpec{Format: format, Dir: dir, SizeBytes: 16 * mib, Workers: 1})
			_, err := w.WriteAt(randomBytes(8*mib, 1), 0)
			if err == nil {
				t.Error("8 MiB fit in 1 MiB")
			}
			if err := w.Close(); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), dir+"/web01") {
				t.Errorf("error %v does not name the file and the cause", err)
			}
			if got := names(t, dir); len(got) > 0 {
				t.Errorf("left %v", got)
			}
		})
	}
}
