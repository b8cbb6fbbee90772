// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// askedImage notes by sector what it has been asked for, and has it asked for before it
// is read.
type askedImage struct {
	countingImage
	t     *testing.T
	asked []byte
}

func (a *askedImage) Prefetch(off, n int64) {
	for s := off / disk.SectorSize; s*disk.SectorSize < min(off+n, a.Size()); s++ {
		a.asked[s]++
	}
}

func (a *askedImage) ReadAt(p []byte, off int64) (int, error) {
	if a.asked[off/disk.SectorSize] == 0 {
		a.t.Errorf("%d bytes at %d are read, and have not been asked for", len(p), off)
	}
	return a.countingImage.ReadAt(p, off)
}

// What is read of a disk has been asked for once, and nothing else has.
func TestAskedFor(t *testing.T) {
	b := diskWith(3*MinExtentBytes+5*disk.SectorSize, 1, 0, 1, 20, 40, 41, 47, 48)
	for _, track := range []int64{0, 64 << 10, 1 << 20} {
		d := memDisk("disk", b)
		d.Record.TrackBytes = track
		read := make([]byte, len(b)/disk.SectorSize)
		im := &askedImage{countingImage{d.Image.(*memImage), &read}, t, make([]byte, len(read))}
		im.runBytes = vmdk.GrainBytes
		d.Image = im
		o := testOptions(codec.None)
		o.Workers = 1
		writeStream(t, []Disk{d}, nil, o)
		for i := range read {
			if track <= vmdk.GrainBytes && im.asked[i] != read[i] || im.asked[i] > 1 {
				t.Fatalf("blocks of %d: sector %d was asked for %d times, and read %d times", track, i, im.asked[i], read[i])
			}
		}
	}
}
