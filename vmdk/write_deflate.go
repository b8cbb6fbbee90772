// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"encoding/binary"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zlib"
	"github.com/vmstream/vmstream/disk"
)

const (
	// defaultLevel is the deflate level if none is asked for: about twice as
	// fast as level 6 and a tenth larger, measured with a tar of /usr.
	defaultLevel = 2

	// maxWorkers bounds the memory of the compressors.
	maxWorkers = 32

	// grainMarkerSize is the size of what stands before a compressed grain:
	// its sector on the disk, u64, and the length of the data, u32.
	grainMarkerSize = 12
)

// deflateJob turns one grain into the record of a stream.
type deflateJob struct {
	grain  int64  // number of the grain
	in     []byte // the grain
	record []byte // marker, zlib data, zeros up to a sector
	err    error
	done   chan struct{} // gets one value when record and err are there
}

// Write appends to the record; it is what the compressor writes to.
func (j *deflateJob) Write(p []byte) (int, error) {
	j.record = append(j.record, p...)
	return len(p), nil
}

// deflater compresses grains by several goroutines and gives the records in
// the order in which the grains came. Its own methods are called by one
// goroutine only.
type deflater struct {
	jobs    chan *deflateJob
	pending []*deflateJob // in order
	free    []*deflateJob
	depth   int // jobs in all, which bounds the memory
	workers sync.WaitGroup
}

func newDeflater(workers, level int) *deflater {
	if workers == 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	workers = min(workers, maxWorkers)
	if level == 0 {
		level = defaultLevel
	}
	depth := 4 * workers
	// A worker may start after stop has emptied d.jobs: it has a copy.
	jobs := make(chan *deflateJob, depth)
	d := &deflater{jobs: jobs, depth: depth}
	for range workers {
		d.workers.Go(func() { deflate(jobs, level) })
	}
	return d
}

// deflate is one worker.
func deflate(jobs <-chan *deflateJob, level int) {
	var z *zlib.Writer
	for j := range jobs {
		if z == nil { // a worker that gets no work needs no memory
			if z, j.err = zlib.NewWriterLevel(j, level); j.err != nil {
				z = nil
				j.done <- struct{}{}
				continue
			}
		}
		j.compress(z)
		j.done <- struct{}{}
	}
}

// compress fills the record. What is compressed depends on nothing but the
// grain, so that the number of workers does not change the stream.
func (j *deflateJob) compress(z *zlib.Writer) {
	j.record = append(j.record[:0], make([]byte, grainMarkerSize)...)
	z.Reset(j)
	if _, j.err = z.Write(j.in); j.err != nil {
		return
	}
	if j.err = z.Close(); j.err != nil {
		return
	}
	binary.LittleEndian.PutUint64(j.record, uint64(j.grain*GrainSectors))
	binary.LittleEndian.PutUint32(j.record[8:], uint32(len(j.record)-grainMarkerSize))
	if over := len(j.record) % disk.SectorSize; over > 0 {
		j.record = append(j.record, zeroSector[:disk.SectorSize-over]...)
	}
}

var zeroSector [disk.SectorSize]byte

// full reports if a record has to be taken before the next grain is put.
func (d *deflater) full() bool { return len(d.pending) == d.depth }

// put starts to compress a grain, of which it takes a copy.
func (d *deflater) put(grain int64, data []byte) {
	var j *deflateJob
	if n := len(d.free); n > 0 {
		j, d.free = d.free[n-1], d.free[:n-1]
	} else {
		j = &deflateJob{
			in:     make([]byte, GrainBytes),
			record: make([]byte, 0, GrainBytes+disk.SectorSize),
			done:   make(chan struct{}, 1),
		}
	}
	j.grain, j.err = grain, nil
	copy(j.in, data)
	d.pending = append(d.pending, j)
	d.jobs <- j // has room for all jobs there are
}

// take waits for the record of the grain that was put first, nil if there is
// none. It goes back by giveBack.
func (d *deflater) take() *deflateJob {
	if len(d.pending) == 0 {
		return nil
	}
	j := d.pending[0]
	d.pending = append(d.pending[:0], d.pending[1:]...)
	<-j.done
	return j
}

func (d *deflater) giveBack(j *deflateJob) { d.free = append(d.free, j) }

// stop ends the workers and waits for them; a second call does nothing.
func (d *deflater) stop() {
	if d.jobs != nil {
		close(d.jobs)
		d.jobs = nil
		d.workers.Wait()
	}
}
