// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"fmt"
	"runtime"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

const (
	// DefaultMemoryBytes bounds the buffers if the caller does not say: four
	// segments of the default size, two of twice that.
	DefaultMemoryBytes = 272 << 20

	// readChunk is how much is read from a disk at once: it fits a second
	// level cache, so that looking for zeros does not go to memory again.
	readChunk = 512 << 10
)

// slot is the memory for one segment on its way, the unit that the memory
// option counts. Its buffer holds, in this order: room for frames, a tar
// header right before the extent, the extent.
//
// A codec's frames replace the content from the front, each before the next
// one is read; the room in front is what they could be longer in all.
type slot struct {
	mem     []byte
	release func()
	extent  int // where the extent begins in mem
	states  []vmdk.GrainState
	kinds   []byte // what kinds of runs each grain has
	frame   []byte // a frame before it moves to its place
	hash    blockHasher
	digests []blockDigest
	enc     codec.Encoder
}

// extentRoom is the longest extent of a segment: all its grains, whole.
func extentRoom(extentBytes int64) int64 {
	return int64(vmdk.SegmentOverhead(extentBytes)) + int64(vmdk.SegmentGrains(extentBytes))*vmdk.GrainBytes
}

// slotBytes returns what a slot takes.
func slotBytes(extentBytes int64, spec codec.Spec) int64 {
	n := maxHeader + extentRoom(extentBytes)
	if spec.Compressed() {
		n += frameRoom(n) + int64(codec.Bound(codec.FrameSize))
	}
	return n
}

func frameRoom(n int64) int64 {
	frames := n/codec.FrameSize + 1
	return frames * int64(codec.Bound(codec.FrameSize)-codec.FrameSize)
}

// slotCount returns how many slots to use: one more than there are workers, so
// that one can be written out while all workers compute, if memory allows it.
func slotCount(workers int, memoryBytes, perSlot int64) (int, error) {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	if memoryBytes == 0 {
		memoryBytes = DefaultMemoryBytes
	}
	n := memoryBytes / perSlot
	if n == 0 {
		const mib = 1 << 20
		return 0, fmt.Errorf("memory of %d bytes is too little for the extent size: %w; it takes at least %dM", memoryBytes, disk.ErrUnsupported, (perSlot+mib-1)/mib)
	}
	return int(min(n, int64(workers)+1)), nil
}

func newSlot(extentBytes int64, spec codec.Spec) (*slot, error) {
	s := &slot{extent: maxHeader}
	if spec.Compressed() {
		s.extent += int(frameRoom(maxHeader + extentRoom(extentBytes)))
		s.frame = make([]byte, 0, codec.Bound(codec.FrameSize))
	}
	var err error
	if s.enc, err = spec.NewEncoder(); err != nil {
		return nil, err
	}
	s.mem, s.release, err = allocate(s.extent + int(extentRoom(extentBytes)))
	if err != nil {
		return nil, fmt.Errorf("memory for a segment of %d bytes: %w", extentBytes, err)
	}
	s.states = make([]vmdk.GrainState, vmdk.SegmentGrains(extentBytes))
	s.kinds = make([]byte, len(s.states))
	return s, nil
}

// CheckMemory reports if the memory that o allows is enough for one segment,
// and says how much would be.
func CheckMemory(o *Options) error {
	extent := o.ExtentBytes
	if extent == 0 {
		extent = DefaultExtentBytes
	}
	_, err := slotCount(o.Workers, o.MemoryBytes, slotBytes(extent, o.Codec))
	return err
}
