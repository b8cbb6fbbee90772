// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

// memoryImage is a disk in memory. Its runs of kind Zero must not be read by
// more than the rest of a grain.
type memoryImage struct {
	content []byte
	runs    []disk.Run
	fail    int64 // reading this byte fails; -1 for none
	onRead  func()
	mu      sync.Mutex
	read    int64
}

var errBroken = errors.New("broken disk")

func (m *memoryImage) Size() int64  { return int64(len(m.content)) }
func (m *memoryImage) Close() error { return nil }

func (m *memoryImage) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	m.read += int64(len(p))
	m.mu.Unlock()
	if m.onRead != nil {
		m.onRead()
	}
	if m.fail >= off && m.fail < off+int64(len(p)) {
		return 0, errBroken
	}
	n := copy(p, m.content[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memoryImage) Runs(int64, int64) iter.Seq2[disk.Run, error] {
	return func(yield func(disk.Run, error) bool) {
		for _, r := range m.runs {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// randomImage has runs of random lengths, some data being zeros all the same.
func randomImage(rng *rand.Rand, size int64) *memoryImage {
	m := &memoryImage{content: make([]byte, size), fail: -1}
	lengths := []int64{1, 512, 4096, vmdk.GrainBytes, 3 * vmdk.GrainBytes, copyBytes, 2*copyBytes + 512}
	for at := int64(0); at < size; {
		n := min(size-at, lengths[rng.IntN(len(lengths))]*(1+rng.Int64N(3)))
		r := disk.Run{Offset: at, Length: n, Kind: disk.Zero}
		if rng.IntN(2) == 0 {
			r.Kind = disk.Data
			if rng.IntN(3) > 0 {
				for i := range m.content[at : at+n] {
					m.content[at+int64(i)] = byte(rng.Uint32())
				}
			}
		}
		m.runs = append(m.runs, r)
		at += n
	}
	return m
}

// memoryWriter checks what a copier promises: whole sectors, ascending, never
// a whole grain of zeros.
type memoryWriter struct {
	t       *testing.T
	content []byte
	pos     int64
	fail    bool
}

func (w *memoryWriter) Ordered() bool { return true }
func (w *memoryWriter) Close() error  { return nil }
func (w *memoryWriter) Abort()        {}

func (w *memoryWriter) WriteAt(p []byte, off int64) (int, error) {
	if w.fail {
		return 0, errBroken
	}
	if off < w.pos || off%disk.SectorSize != 0 || len(p)%disk.SectorSize != 0 {
		w.t.Errorf("write of %d bytes at %d behind one up to %d", len(p), off, w.pos)
	}
	if disk.IsZero(p) {
		w.t.Errorf("%d zeros written at %d", len(p), off)
	}
	w.pos = off + int64(len(p))
	copy(w.content[off:], p)
	return len(p), nil
}

func TestCopy(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 28 {
		size := []int64{1, 511, 512, vmdk.GrainBytes + 512, copyBytes, copyBytes + 1, 9*copyBytes + 1000}[i%7]
		im := randomImage(rng, size)
		w := &memoryWriter{t: t, content: make([]byte, size)}
		count := new(stream.Counters)
		c := &copier{im: im, w: w, workers: i % 5, count: count}
		if err := c.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(w.content, im.content) {
			t.Fatalf("copy %d of %d bytes differs", i, size)
		}
		if count.Done.Load() != size {
			t.Errorf("%d bytes counted, the disk has %d", count.Done.Load(), size)
		}
		if limit := widened(im); im.read > limit {
			t.Errorf("%d bytes read, grains with data have %d", im.read, limit)
		}
	}
}

// widened returns how many bytes are in grains that hold data.
func widened(m *memoryImage) int64 {
	var grains []int64
	for _, r := range m.runs {
		if r.Kind == disk.Data {
			for g := r.Offset / vmdk.GrainBytes; g <= (r.End()-1)/vmdk.GrainBytes; g++ {
				grains = append(grains, g)
			}
		}
	}
	return int64(len(slices.Compact(grains))) * vmdk.GrainBytes
}

// TestCopyFails has trouble on either side and a signal: all workers end, and
// the error tells the side.
func TestCopyFails(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	data := func() *memoryImage {
		im := randomImage(rng, 20*copyBytes)
		for i := range im.content {
			im.content[i] = 1
		}
		im.runs = []disk.Run{{Length: im.Size(), Kind: disk.Data}}
		return im
	}
	im := data()
	im.fail = 10 * copyBytes
	err := (&copier{im: im, w: &memoryWriter{t: t, content: make([]byte, im.Size())}, count: new(stream.Counters)}).run(t.Context())
	if !errors.Is(err, errBroken) || errors.Is(err, stream.ErrTarget) {
		t.Errorf("source: %v", err)
	}
	im = data()
	err = (&copier{im: im, w: &memoryWriter{t: t, fail: true}, count: new(stream.Counters)}).run(t.Context())
	if !errors.Is(err, errBroken) || !errors.Is(err, stream.ErrTarget) {
		t.Errorf("target: %v", err)
	}
	im = data()
	cause := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	im.onRead = func() { cancel(cause) }
	err = (&copier{im: im, w: &memoryWriter{t: t, content: make([]byte, im.Size())}, count: new(stream.Counters)}).run(ctx)
	if !errors.Is(err, cause) {
		t.Errorf("cancelled: %v", err)
	}
}
