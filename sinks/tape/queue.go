// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"errors"
	"runtime"
	"slices"
	"sync"
)

// queue is a number of chunks on their way between a drive and the one who writes or
// reads a stream. A drive that has to wait stops its tape, and takes seconds to get it
// running again; so its side, when it finds nothing, waits until there is enough to
// run for a while. How much that is doubles with each stop, up to all there is.
type queue struct {
	mu     sync.Mutex
	change *sync.Cond
	free   [][]byte
	full   [][]byte
	count  int // of all chunks
	enough int // for the drive to start
	going  bool
	stops  int
	ended  bool
	err    error
}

// minChunks is what makes a queue of any use.
const minChunks = 4

// newQueue returns a queue of about bufferBytes in chunks.
func newQueue(bufferBytes int64, chunkBytes int) *queue {
	n := int(max(bufferBytes/int64(chunkBytes), minChunks))
	q := &queue{count: n, enough: max(n/8, 1)}
	q.change = sync.NewCond(&q.mu)
	for range n {
		q.free = append(q.free, aligned(chunkBytes))
	}
	return q
}

var errQueueEnded = errors.New("nothing more comes")

// take takes a chunk out of one of the lists, and waits for one. drive says that this
// is the drive's side. No more than what was put before end gives errQueueEnded.
func (q *queue) take(list *[][]byte, drive bool) ([]byte, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	need := 1
	if drive && !q.going {
		need = q.enough
	} else if drive && len(*list) == 0 && !q.ended {
		q.going, q.stops = false, q.stops+1
		q.enough = min(2*q.enough, q.count-1) // one may be held back
		need = q.enough
	}
	for len(*list) < need && !q.ended && q.err == nil {
		q.change.Wait()
	}
	switch {
	case q.err != nil:
		return nil, q.err
	case len(*list) == 0:
		return nil, errQueueEnded
	}
	if drive {
		q.going = true
	}
	if list == &q.free { // the one that was used last, which is in the processor's cache
		c := q.free[len(q.free)-1]
		q.free = q.free[:len(q.free)-1]
		return c, nil
	}
	c := q.full[0]
	q.full = slices.Delete(q.full, 0, 1)
	return c, nil
}

// put puts a chunk into one of the lists.
func (q *queue) put(list *[][]byte, c []byte) {
	q.mu.Lock()
	*list = append(*list, c)
	q.mu.Unlock()
	q.change.Broadcast()
	runtime.Gosched() // with one processor, the other side would wait until this one has to
}

// end says that no more full chunks come.
func (q *queue) end() {
	q.mu.Lock()
	q.ended = true
	q.mu.Unlock()
	q.change.Broadcast()
}

// fail has both sides get an error. The first one stays.
func (q *queue) fail(err error) {
	q.mu.Lock()
	if q.err == nil {
		q.err = err
	}
	q.mu.Unlock()
	q.change.Broadcast()
}

// stopped is how often the drive has had to wait.
func (q *queue) stopped() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stops
}
