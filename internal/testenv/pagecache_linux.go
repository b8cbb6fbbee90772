// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// PageCache returns how many bytes of a range of a file the system keeps in memory, and how
// many of them it has yet to give to the disk. The test is skipped where it does not tell,
// and where there is no disk.
func PageCache(tb testing.TB, f *os.File, off, n int64) (kept, dirty int64) {
	tb.Helper()
	fd := int(f.Fd())
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		tb.Fatal(err)
	}
	if fs.Type == unix.TMPFS_MAGIC {
		tb.Skip("a tmpfs is in memory, and never written out")
	}
	var c unix.Cachestat_t
	err := unix.Cachestat(uint(fd), &unix.CachestatRange{Off: uint64(off), Len: uint64(n)}, &c, 0)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		tb.Skip("needs cachestat(2) of Linux 6.5")
	}
	if err != nil {
		tb.Fatal(err)
	}
	page := int64(os.Getpagesize())
	return int64(c.Cache) * page, int64(c.Dirty) * page
}

// DropPageCache has the system forget what it keeps of a file in memory. The test is
// skipped where it does not.
func DropPageCache(tb testing.TB, f *os.File) {
	tb.Helper()
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(time.Millisecond) {
		if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)); err != nil {
			tb.Fatal(err)
		}
		if kept, _ := PageCache(tb, f, 0, 0); kept == 0 {
			return
		}
		if time.Now().After(end) { // what is being read stays until it has come
			tb.Skip("this file system does not forget what it has in memory")
		}
	}
}
