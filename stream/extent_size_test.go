// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"errors"
	"io"
	"iter"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

// runsImage is a disk of which only the runs are known: every period bytes
// begin with data, the rest is zero.
type runsImage struct{ size, period, data int64 }

func (r runsImage) Size() int64                       { return r.size }
func (r runsImage) Close() error                      { return nil }
func (r runsImage) ReadAt([]byte, int64) (int, error) { return 0, io.ErrUnexpectedEOF }

func (r runsImage) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	return func(yield func(disk.Run, error) bool) {
		for end := min(off+n, r.size); off < end; {
			in := off % r.period
			run := disk.Run{Offset: off, Kind: disk.Data, Length: r.data - in}
			if in >= r.data {
				run.Kind, run.Length = disk.Zero, r.period-in
			}
			run.Length = min(run.Length, end-off)
			if !yield(run, nil) {
				return
			}
			off = run.End()
		}
	}
}

func TestChooseExtents(t *testing.T) {
	const mib, tib = int64(1) << 20, int64(1) << 40
	dense := func(size int64) runsImage { return runsImage{size, size, size} }
	for _, c := range []struct {
		name   string
		im     runsImage
		extent int64 // asked for
		memory int64
		want   int64 // 0: refused
	}{
		{"1 TiB", dense(tib), 0, 0, 64 * mib},
		{"2 TiB", dense(2 * tib), 0, 0, 128 * mib},
		{"6 TiB", dense(6 * tib), 0, 0, 256 * mib},
		{"12 TiB take more memory than is allowed", dense(12 * tib), 0, 0, 0},
		{"12 TiB", dense(12 * tib), 0, 1 << 30, 512 * mib},
		{"24 TiB", dense(24 * tib), 0, 2 << 30, 1024 * mib},
		{"64 TiB are too many extents of any size", dense(64 * tib), 0, 8 << 30, 0},
		{"64 TiB without data", runsImage{64 * tib, 64 * tib, 0}, 0, 0, 64 * mib},
		{"64 TiB with little data", runsImage{64 * tib, tib, 4096}, 0, 0, 64 * mib},
		{"64 TiB, data everywhere", runsImage{64 * tib, 64 * mib, 4096}, 0, 8 << 30, 0},
		{"small extents of a large disk", dense(tib), 1 * mib, 0, 0},
		{"small extents of a small disk", dense(tib / 64), 1 * mib, 0, 1 * mib},
	} {
		d := memDisk("disk", nil)
		d.Image = c.im
		o := testOptions("none")
		o.ExtentBytes, o.MemoryBytes = c.extent, c.memory
		w := &streamWriter{opt: o, disks: []Disk{d}}
		err := w.chooseExtents()
		if c.want == 0 {
			if !errors.Is(err, disk.ErrUnsupported) {
				t.Errorf("%s: %v, want it refused", c.name, err)
			}
			continue
		}
		if err != nil || w.opt.ExtentBytes != c.want {
			t.Errorf("%s: extents of %d, %v; want %d", c.name, w.opt.ExtentBytes, err, c.want)
		}
	}
}

// What the bound allows fits a descriptor.
func TestPossibleExtents(t *testing.T) {
	d := memDisk("disk", make([]byte, 512))
	for _, file := range []string{"a.vmdk", "a-rather-long-name-of-a-virtual-machine-in-a-data-centre.vmdk"} {
		r := d.Record
		r.File, r.CID, r.ParentCID = file, "12345678", "ffffffff"
		s := &diskState{rec: &r}
		for i := range possibleExtents(&r) {
			s.extents = append(s.extents, extentLine(r.extentName(1_000_000+i), MaxExtentBytes))
		}
		if _, err := r.descriptor(s.extents); err != nil {
			t.Errorf("%s with %d extents: %v", file, len(s.extents), err)
		}
	}
}
