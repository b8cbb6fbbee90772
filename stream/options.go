// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// Modes of the members: disks may hold secrets, so extracting makes them
// readable by their owner only.
const (
	diskMode = 0o600
	fileMode = 0o644
)

// Counters tell how far a run is. Any goroutine may read them at any time.
type Counters struct {
	Total atomic.Int64 // bytes of all disks and files
	Done  atomic.Int64 // bytes of disks and files that have been dealt with
	Zero  atomic.Int64 // bytes of them that were zero
	Tar   atomic.Int64 // bytes of tar
	Out   atomic.Int64 // bytes written or read as the stream, compressed if it is
}

// Options say how a stream is written. ID, Created, Tool and Name are required.
type Options struct {
	ID      string
	Created time.Time // of the backup, whole seconds are kept
	Tool    string    // program and version
	Name    string    // of the VM: the directory in the tar
	// Parent is the opening record of the backup that this one is an increment
	// on, nil for a full one. The directory is then its VM's name and a number.
	Parent      *Opening
	Consistency Consistency
	ExtentBytes int64 // a multiple of 64 KiB; 0: DefaultExtentBytes, or more if a disk needs it
	Codec       codec.Spec
	Workers     int   // 0: one for each processor
	MemoryBytes int64 // bound of the buffers; 0: DefaultMemoryBytes
	Counters    *Counters
	// Confirm is asked once all sources have been read, before anything is written
	// that proves the stream whole: an error means that there is no backup. It
	// may be nil.
	Confirm func(context.Context) error
	Warn    func(string) // takes what does not break the stream; may be nil
}

// Disk is a disk to write.
type Disk struct {
	Record DiskRecord // CapacityBytes, AllocatedBytes, CID and ParentCID are filled in
	Image  disk.Image
	// Changes makes the disk an increment on that of the same key in
	// Options.Parent: what is of kind Parent is left out.
	Changes Changes
	// Was has the digests of the disk in the parent, nil if there are none.
	// What an increment with Record.TrackBytes does not store has these digests
	// still; without them, or with blocks of another size, it is read.
	Was *Track
	// Compare makes the disk an increment without Changes: every block is read,
	// and those that have the digest in Was are left out.
	Compare bool

	merged *mergedDisk
}

// increment reports if the disk is an increment on its parent.
func (d *Disk) increment() bool { return d.Changes != nil || d.Compare }

// blockBytes returns the size of the blocks whose digests are needed, 0 if none are.
func (d *Disk) blockBytes() int64 {
	if d.Compare && d.Was != nil {
		return d.Was.BlockBytes
	}
	return d.Record.TrackBytes
}

// carried returns digests of the parent that still hold for blocks that have
// not changed.
func (d *Disk) carried() *DiskTrack {
	if d.Was == nil || d.Was.BlockBytes != d.blockBytes() || !d.increment() {
		return nil
	}
	return d.Was.DiskTrack
}

// changes returns what tells the runs to store.
func (d *Disk) changes() Changes {
	if d.Changes != nil {
		return d.Changes
	}
	return d.Image
}

// File is another file to write.
type File struct {
	Record  FileRecord // SizeBytes is filled in
	Mode    int64      // permission bits
	ModTime time.Time
	// Open returns the content and its length. It is called once.
	Open func() (io.ReadCloser, int64, error)
}

// Result is what has been written or read.
type Result struct {
	Opening  *Opening
	Index    *Index
	Warnings []string
	OutBytes int64 // length of the stream
	TarBytes int64
	// IndexJSON is the content of the index member.
	IndexJSON []byte
}

func (o *Options) prepare() error {
	if o.ExtentBytes != 0 && (o.ExtentBytes < MinExtentBytes || o.ExtentBytes > MaxExtentBytes) || o.ExtentBytes%vmdk.GrainBytes != 0 {
		return fmt.Errorf("extent size %d: %w; it is a multiple of 64K from 1M to 1G", o.ExtentBytes, disk.ErrUnsupported)
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Counters == nil {
		o.Counters = new(Counters)
	}
	if o.Codec.Name == "" {
		o.Codec.Name = codec.None
	}
	o.Created = o.Created.UTC().Truncate(time.Second)
	if o.ID == "" || o.Tool == "" || o.Created.IsZero() {
		return errors.New("stream: id, time and tool are required")
	}
	return o.Codec.Validate()
}
