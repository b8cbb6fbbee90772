// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmstream/vmstream/internal/testenv"
)

// What a file is told of is in memory without having been read.
func TestPrefetchFile(t *testing.T) {
	const size, at, n = 8 << 20, 3 << 20, 1<<20 + 5
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
	if err := errors.Join(im.f.Sync(), unix.Fadvise(int(im.f.Fd()), 0, 0, unix.FADV_DONTNEED)); err != nil {
		t.Fatal(err)
	}
	if kept(0, size) != 0 {
		t.Skip("this file system does not forget what it has in memory")
	}
	im.Prefetch(at, n) // no read has waited
	im.ahead.Store(aheadBytes)
	im.Prefetch(-1, 5)
	im.Prefetch(size, 5)
	im.Prefetch(5, -3)
	if got := kept(0, size); got != 0 {
		t.Errorf("%d bytes are in memory, and nobody has asked for them", got)
	}
	im.Prefetch(at, n)
	for end := time.Now().Add(5 * time.Second); kept(at, n) < n && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	if got := kept(at, n); got < n {
		t.Errorf("%d of %d bytes are in memory", got, n)
	}
	im.Prefetch(size-100, size) // its end
	if got := im.ahead.Load(); got != aheadBytes-n-100 {
		t.Errorf("%d bytes are left to be asked for", got)
	}
}
