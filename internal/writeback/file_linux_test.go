// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package writeback

import (
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/testenv"
)

// What has been written goes to the disk without a sync. Linux by itself leaves it for
// seconds, if memory is not short of it.
func TestWrittenOutEarly(t *testing.T) {
	f := create(t)
	const size = 4 * stepBytes
	if _, err := f.WriteAt(random(size), 0); err != nil {
		t.Fatal(err)
	}
	var dirty int64
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, dirty = testenv.PageCache(t, f.File, 0, size); dirty == 0 {
			return
		}
		if time.Now().After(end) {
			break
		}
	}
	t.Errorf("%d of %d bytes have not been given to the disk", dirty, size)
}
