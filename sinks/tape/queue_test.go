// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"errors"
	"testing"
	"time"
	"unsafe"
)

// TestQueueAdapts has a drive that finds nothing wait for more each time, and get all
// there is in the end.
func TestQueueAdapts(t *testing.T) {
	q := newQueue(16*4096, 4096)
	if q.count != 16 || q.enough != 2 {
		t.Fatalf("%d chunks, starts with %d", q.count, q.enough)
	}
	taken := make(chan int)
	go func() {
		defer close(taken)
		n := 0
		for {
			c, err := q.take(&q.full, true)
			if err != nil {
				if !errors.Is(err, errQueueEnded) {
					t.Error(err)
				}
				taken <- n
				return
			}
			n++
			q.put(&q.free, c)
		}
	}()
	for range 100 { // slower than the drive
		c, err := q.take(&q.free, false)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Microsecond)
		q.put(&q.full, c)
	}
	q.end()
	if n := <-taken; n != 100 {
		t.Errorf("the drive got %d chunks", n)
	}
	if q.stopped() == 0 || q.enough != 15 {
		t.Errorf("%d stops, then it waits for %d", q.stopped(), q.enough)
	}
}

// TestQueueRuns has a drive not wait that finds enough.
func TestQueueRuns(t *testing.T) {
	q := newQueue(16*4096, 4096)
	for range 16 {
		c, err := q.take(&q.free, false)
		if err != nil {
			t.Fatal(err)
		}
		q.put(&q.full, c)
	}
	for range 16 {
		if _, err := q.take(&q.full, true); err != nil {
			t.Fatal(err)
		}
	}
	if q.stopped() != 0 {
		t.Errorf("%d stops", q.stopped())
	}
	cause := errors.New("enough")
	q.fail(cause)
	q.fail(errors.New("later"))
	for _, drive := range []bool{true, false} {
		if _, err := q.take(&q.full, drive); !errors.Is(err, cause) {
			t.Errorf("got %v", err)
		}
	}
}

func TestAligned(t *testing.T) {
	for _, n := range []int{1, 512, 4096, 100_000} {
		b := aligned(n)
		if len(b) != n || cap(b) != n || uintptr(unsafe.Pointer(unsafe.SliceData(b)))%pageBytes != 0 {
			t.Errorf("%d bytes: %d of %d", n, len(b), cap(b))
		}
	}
}
