// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/testenv"
)

// A file is asked for what comes once a read of it has had to wait, which one of very
// many reads from a disk does.
func TestPrefetchFile(t *testing.T) {
	const size, at, n = 16 << 20, 8 << 20, 1 << 20
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	im, err := OpenRaw(path)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	kept := func(off, n int64) int64 {
		kept, _ := testenv.PageCache(t, im.f, off, n)
		return kept
	}
	b := make([]byte, 512)
	for range 200 {
		if _, err := im.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		testenv.DropPageCache(t, im.f)
		im.Prefetch(at, n)
		for range 20 {
			if kept(at, n) == n {
				if got := kept(0, size); got != n {
					t.Errorf("%d bytes are in memory, not %d", got, n)
				}
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	t.Error("it was never asked for")
}
