// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
	fd := int(im.f.Fd())
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		t.Fatal(err)
	}
	if st.Type == unix.TMPFS_MAGIC {
		t.Skip("a tmpfs is in memory")
	}
	kept := func(off, n int64) int64 {
		var c unix.Cachestat_t
		err := unix.Cachestat(uint(fd), &unix.CachestatRange{Off: uint64(off), Len: uint64(n)}, &c, 0)
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
			t.Skip("needs cachestat(2) of Linux 6.5")
		}
		if err != nil {
			t.Fatal(err)
		}
		return int64(c.Cache) * int64(os.Getpagesize())
	}
	if err := errors.Join(im.f.Sync(), unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)); err != nil {
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
