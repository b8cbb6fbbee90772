// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/vmstream/vmstream/sinks"
)

// cleanupTime is how long an upload that has failed may take to be removed.
const cleanupTime = time.Minute

var errEnded = errors.New("s3: the writer has ended")

// sent is a part that the server has.
type sent struct {
	etag string
	size int64
	crc  uint32
	sum  bool // the server knows its CRC32C
}

// writer cuts what is written into parts and sends several at a time. What has not
// filled a part when Commit comes is sent then, as an object if it is the only one.
type writer struct {
	sink    *sink
	key     string
	options sinks.CreateOptions
	plan    plan
	ctx     context.Context // ends with the first error of a part
	fail    context.CancelCauseFunc
	pool    *pool
	sending sync.WaitGroup

	upload  string // its id; empty before the first part is full
	current *buffer
	number  int   // of the part that is filled
	size    int64 // written, bytes
	ended   bool

	earlier map[int]minio.ObjectPart // parts of an interrupted upload, by number

	mu   sync.Mutex
	sent map[int]sent
}

// Create looks if an object is there, so that this does not come out when everything
// has been sent, and for an upload to go on with.
func (s *sink) Create(ctx context.Context, key string, o sinks.CreateOptions) (sinks.Writer, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	if !o.Overwrite {
		if err := s.vacant(ctx, key); err != nil {
			return nil, err
		}
	}
	if err := s.lockable(ctx); err != nil {
		return nil, err
	}
	w := &writer{
		sink: s, key: key, options: o, plan: s.planFor(o.SizeHintBytes),
		pool: newPool(&s.config), number: 1, sent: map[int]sent{},
	}
	if o.Resume {
		if err := w.find(ctx); err != nil {
			return nil, err
		}
	}
	w.ctx, w.fail = context.WithCancelCause(ctx)
	return w, nil
}

// vacant gives ErrExists if an object is under the key. Who may not see that learns
// it at the end.
func (s *sink) vacant(ctx context.Context, key string) error {
	_, err := s.head(ctx, key)
	var f *failure
	switch {
	case err == nil:
		return &failure{op: "creating", place: s.place(key), text: "an object is there", kinds: []error{sinks.ErrExists}}
	case errors.Is(err, sinks.ErrNotExist), errors.As(err, &f) && f.status == 403:
		return nil
	}
	return err
}

func (w *writer) Write(p []byte) (int, error) {
	if w.ended {
		return 0, errEnded
	}
	done := 0
	for done < len(p) {
		if w.current == nil {
			if err := w.next(); err != nil {
				return done, err
			}
		}
		n, err := w.current.fill(p[done:])
		done += n
		w.size += int64(n)
		if err != nil {
			w.fail(err)
			return done, err
		}
		if w.current.full() {
			if err := w.dispatch(); err != nil {
				return done, err
			}
		}
	}
	if w.ctx.Err() != nil {
		return done, context.Cause(w.ctx)
	}
	return done, nil
}

// next gets a buffer for the next part.
func (w *writer) next() error {
	if w.number > maxParts {
		err := fmt.Errorf("s3: %s is longer than %d bytes, which parts of this size can hold: set part-size: %w", w.key, w.plan.total(), sinks.ErrUnsupported)
		w.fail(err)
		return err
	}
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	var err error
	if w.current, err = w.pool.get(w.ctx, w.plan.size(w.number)); err != nil {
		w.fail(err)
	}
	return err
}

// dispatch begins to send the current part.
func (w *writer) dispatch() error {
	if w.upload == "" {
		if err := w.begin(w.ctx); err != nil {
			w.fail(err)
			return err
		}
	}
	b, number := w.current, w.number
	w.current = nil
	w.number++
	w.sending.Go(func() {
		defer w.pool.put(b)
		part, err := w.send(w.ctx, number, b)
		if err != nil {
			w.fail(err)
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.sent[number] = part
	})
	return nil
}

// stop ends everything that runs and frees the memory.
func (w *writer) stop(cause error) {
	w.ended = true
	w.fail(cause)
	w.sending.Wait()
	if w.current != nil {
		w.pool.put(w.current)
		w.current = nil
	}
	w.pool.close()
}

// Abort removes the upload, or keeps it to be gone on with.
func (w *writer) Abort(ctx context.Context) error {
	if w.ended {
		return nil
	}
	w.stop(errEnded)
	return w.cleanUp(ctx)
}

// cleanUp removes what was sent. It has a time of its own: ctx may be over, which
// is why it is called.
func (w *writer) cleanUp(ctx context.Context) error {
	if w.upload == "" || w.options.Keep {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	// A part whose sending was stopped may arrive all the same, behind the abort, and be
	// kept; some servers make the upload anew for it. So it is repeated until there has been
	// nothing to abort twice.
	gone := 0
	for pause := abortPause; ; pause *= 2 {
		err := w.sink.abort(ctx, w.key, w.upload)
		switch {
		case errors.Is(err, sinks.ErrNotExist):
			if gone++; gone == 2 {
				return nil
			}
		case err != nil:
			return err
		case pause > maxAbortPause: // a server that never says so
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Pauses between aborts of one upload.
const (
	abortPause    = 100 * time.Millisecond
	maxAbortPause = 800 * time.Millisecond
)
