// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

// TestFileReader reads a file that stays as it is, one that grows, and one that becomes
// shorter.
func TestFileReader(t *testing.T) {
	for length, want := range map[int64]int64{100_000: 100_000, 100_001: 100_001, 150_000: 100_001, 60_000: 60_000, 10: 40_000} {
		path := filepath.Join(t.TempDir(), "vmware.log")
		if err := os.WriteFile(path, []byte(strings.Repeat("x", 100_000)), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := openRegular(disk.OS(), path)
		if err != nil {
			t.Fatal(err)
		}
		r := &fileReader{RawFile: f}
		if _, err := io.ReadFull(r, make([]byte, 40_000)); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, length); err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, io.LimitReader(r, 60_001))
		if n += 40_000; err != nil || n != want {
			t.Errorf("%d bytes in the end: %d read, want %d, %v", length, n, want, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}
