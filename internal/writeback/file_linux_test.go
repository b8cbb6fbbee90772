// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package writeback

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What has been written goes to the disk without a sync. Linux by itself leaves it for
// seconds, if memory is not short of it.
func TestWrittenOutEarly(t *testing.T) {
	f := create(t)
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if st.Type == unix.TMPFS_MAGIC {
		t.Skip("a tmpfs is never written out")
	}
	const size = 4 * stepBytes
	if _, err := f.WriteAt(random(size), 0); err != nil {
		t.Fatal(err)
	}
	var dirty uint64 // bytes
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var c unix.Cachestat_t
		err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{Len: size}, &c, 0)
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
			t.Skip("needs cachestat(2) of Linux 6.5")
		}
		if err != nil {
			t.Fatal(err)
		}
		if dirty = c.Dirty * uint64(unix.Getpagesize()); dirty == 0 {
			return
		}
		if time.Now().After(end) {
			break
		}
	}
	t.Errorf("%d of %d bytes have not been given to the disk", dirty, size)
}
