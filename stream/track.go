// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"sort"

	"github.com/vmstream/vmstream/disk"
)

// Sizes of the blocks whose digests an index may keep.
const (
	MinTrackBytes     = 64 << 10
	MaxTrackBytes     = 64 << 20
	DefaultTrackBytes = 1 << 20

	blockDigestBytes = 16

	// blockIndexBytes is what a block takes in the index at most: 64/3
	// characters of base64, and where two blocks that are listed have one
	// between them that is not, the numbers of a run.
	blockIndexBytes = 24

	// maxTrackIndex bounds what the digests of all disks add to the index: it is
	// read and written whole.
	maxTrackIndex = 512 << 20
)

// ValidTrackBytes reports if n can be the size of tracked blocks: a power of
// two from 64 KiB to 64 MiB.
func ValidTrackBytes(n int64) bool {
	return n >= MinTrackBytes && n <= MaxTrackBytes && n&(n-1) == 0
}

// blockDigest is the first half of SHA-256 of a block, and zero for a block
// without any byte but zeros.
type blockDigest [blockDigestBytes]byte

// DiskTrack has the digests of a disk's blocks, as the index keeps them. Blocks
// of zeros are not listed. Once it is complete any goroutine may read it.
type DiskTrack struct {
	Key     string       `json:"key"`
	Runs    []uint32     `json:"runs"`    // first block and number of blocks of each run of listed ones
	Digests strictBase64 `json:"digests"` // of all listed blocks, one after the other

	at []int64 // blocks listed before each run
}

// strictBase64 is base64 that can be written in one way only.
type strictBase64 []byte

// UnmarshalJSON decodes a string.
func (s *strictBase64) UnmarshalJSON(b []byte) error {
	if len(b) < 2 || b[0] != '"' {
		return errors.New("digests are no string")
	}
	text := b[1 : len(b)-1]
	d := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Strict().Decode(d, text)
	*s = d[:n]
	return err
}

// Track is what an index knows of the blocks of one disk.
type Track struct {
	BlockBytes int64
	*DiskTrack
}

// Track returns the digests of the disk with this key, nil if the index has none.
func (ix *Index) Track(key string) *Track {
	for i := range ix.Opening.Disks {
		d := &ix.Opening.Disks[i]
		for _, t := range ix.Tracks {
			if t.Key == key && d.Key == key {
				return &Track{d.TrackBytes, t}
			}
		}
	}
	return nil
}

// blocks returns the number of blocks of the disk.
func (d *DiskRecord) blocks() int64 {
	if d.TrackBytes == 0 {
		return 0
	}
	return (d.Sectors()*disk.SectorSize + d.TrackBytes - 1) / d.TrackBytes
}

// trackBound returns how much longer the index may be for digests.
func (o *Opening) trackBound() int64 {
	var n int64
	for i := range o.Disks {
		if b := o.Disks[i].blocks(); b > 0 {
			n += b*blockIndexBytes + 512 // key and punctuation
		}
	}
	return min(n, maxTrackIndex)
}

// checkTracks makes sure that there is a list of digests for each disk that has
// to have one, and that each is as a writer makes it.
func (ix *Index) checkTracks() error {
	n := 0
	for i := range ix.Opening.Disks {
		d := &ix.Opening.Disks[i]
		if d.TrackBytes == 0 {
			continue
		}
		if n == len(ix.Tracks) || ix.Tracks[n] == nil || ix.Tracks[n].Key != d.Key {
			return recordError("index", "digests of the blocks of disk %q are missing", d.Key)
		}
		if err := ix.Tracks[n].validate(d.blocks()); err != nil {
			return err
		}
		n++
	}
	if n != len(ix.Tracks) {
		return recordError("index", "has digests of the blocks of %d disks, %d are tracked", len(ix.Tracks), n)
	}
	return nil
}

// validate checks the form of a list for a disk of so many blocks, and makes it
// ready for look-ups.
func (t *DiskTrack) validate(blocks int64) error {
	if len(t.Runs)%2 != 0 {
		return recordError("index", "digests of disk %q: a run without length", t.Key)
	}
	t.at = make([]int64, len(t.Runs)/2)
	var listed, end int64
	for i := range t.at {
		first, n := int64(t.Runs[2*i]), int64(t.Runs[2*i+1])
		// Two runs that touch would be one.
		if n == 0 || first+n > blocks || i > 0 && first <= end {
			return recordError("index", "digests of disk %q: run %d has %d blocks from %d on, the one before ends at %d of %d", t.Key, i, n, first, end, blocks)
		}
		t.at[i] = listed
		listed, end = listed+n, first+n
	}
	if int64(len(t.Digests)) != listed*blockDigestBytes {
		return recordError("index", "digests of disk %q: %d bytes for %d blocks", t.Key, len(t.Digests), listed)
	}
	for i := int64(0); i < listed; i++ {
		if t.digest(i) == (blockDigest{}) {
			return recordError("index", "digests of disk %q: one is zero", t.Key)
		}
	}
	return nil
}

func (t *DiskTrack) digest(i int64) blockDigest {
	return blockDigest(t.Digests[i*blockDigestBytes:])
}

// listed returns the number of blocks listed.
func (t *DiskTrack) listed() int64 { return int64(len(t.Digests)) / blockDigestBytes }

// run returns the first run that ends behind a block.
func (t *DiskTrack) run(block int64) int {
	return sort.Search(len(t.at), func(i int) bool { return int64(t.Runs[2*i])+int64(t.Runs[2*i+1]) > block })
}

// block returns the digest of a block.
func (t *DiskTrack) block(i int64) blockDigest {
	r := t.run(i)
	if r == len(t.at) || i < int64(t.Runs[2*r]) {
		return blockDigest{}
	}
	return t.digest(t.at[r] + i - int64(t.Runs[2*r]))
}

// nextListed returns the first listed block from block i on, or a number that
// no disk has.
func (t *DiskTrack) nextListed(i int64) int64 {
	r := t.run(i)
	if r == len(t.at) {
		return math.MaxInt64
	}
	return max(i, int64(t.Runs[2*r]))
}

// add appends the digest of a block behind all that are listed.
func (t *DiskTrack) add(block int64, d blockDigest) {
	if d == (blockDigest{}) {
		return
	}
	if n := len(t.Runs); n > 0 && int64(t.Runs[n-2])+int64(t.Runs[n-1]) == block {
		t.Runs[n-1]++
	} else {
		t.Runs = append(t.Runs, uint32(block), 1)
		t.at = append(t.at, t.listed())
	}
	t.Digests = append(t.Digests, d[:]...)
}

// carry appends what was has of the blocks [from, to).
func (t *DiskTrack) carry(was *DiskTrack, from, to int64) {
	for i := was.nextListed(from); i < to; i = was.nextListed(i + 1) {
		t.add(i, was.block(i))
	}
}

// touchedBlocks returns how many blocks of the given size data runs touch. Of
// very many runs the rest counts whole.
func touchedBlocks(im Changes, size, block int64) (int64, error) {
	var touched, next, runs int64
	for r, err := range im.Runs(0, size) {
		if err != nil {
			return 0, err
		}
		if runs++; runs > maxRuns {
			return touched + (size+block-1)/block - next, nil
		}
		if r.Kind != disk.Data {
			continue
		}
		first, end := max(r.Offset/block, next), (r.End()+block-1)/block
		if end > first {
			touched += end - first
			next = end
		}
	}
	return touched, nil
}

// checkTracking makes sure that the digests of all disks fit the index, before
// anything is read.
func (w *streamWriter) checkTracking() error {
	var total int64
	for i := range w.disks {
		d := &w.disks[i]
		r := &d.Record
		if b := d.blockBytes(); b != 0 && (!ValidTrackBytes(b) || w.opt.ExtentBytes%b != 0) {
			return fmt.Errorf("disk %s: blocks of %d bytes are tracked, the extent size of %d is no multiple of that: %w", r.Key, b, w.opt.ExtentBytes, disk.ErrUnsupported)
		}
		if r.TrackBytes == 0 {
			continue
		}
		runs, listed := Changes(d.Image), int64(0)
		if d.Changes != nil && d.carried() != nil {
			runs, listed = d.Changes, d.Was.listed()
		}
		n, err := touchedBlocks(runs, d.Image.Size(), r.TrackBytes)
		if err != nil {
			return fmt.Errorf("disk %s: %w", r.Key, err)
		}
		if total += (n + listed) * blockIndexBytes; total > maxTrackIndex {
			return fmt.Errorf("disk %s: the digests of its blocks of %d bytes may take more than %d MiB of the index: %w; track larger blocks", r.Key, r.TrackBytes, maxTrackIndex>>20, disk.ErrUnsupported)
		}
	}
	return nil
}
