// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"math/rand/v2"
	"sync/atomic"
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

// askedFile is a stream in a file that has to be asked for.
type askedFile struct {
	*bytes.Reader
	t     *testing.T
	asked []atomic.Bool
}

func (a *askedFile) Prefetch(off, n int64) {
	for i := off; i < min(off+n, a.Size()); i++ {
		a.asked[i].Store(true)
	}
}

func (a *askedFile) ReadAt(p []byte, off int64) (int, error) {
	if off < a.Size() && !a.asked[off].Load() {
		a.t.Errorf("%d bytes at %d are read, and have not been asked for", len(p), off)
	}
	return a.Reader.ReadAt(p, off)
}

// A stream in a file has been asked for where it is read.
func TestStreamAskedFor(t *testing.T) {
	b := make([]byte, 3*MinExtentBytes)
	rand.NewChaCha8([32]byte{1}).Read(b)
	for _, c := range []string{codec.None, codec.Zstd} {
		s, _ := writeStream(t, []Disk{memDisk("disk", b)}, nil, testOptions(c))
		s = append([]byte("in front"), s...)
		f := &askedFile{bytes.NewReader(s), t, make([]atomic.Bool, len(s))}
		if _, err := Read(t.Context(), nil, nil, ReadOptions{Workers: 2, File: &FileInput{R: f, Offset: 8}}); err != nil {
			t.Fatal(err)
		}
		if f.asked[7].Load() {
			t.Error("what is in front of the stream is asked for")
		}
	}
}
