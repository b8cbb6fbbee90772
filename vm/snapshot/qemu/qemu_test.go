// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm/snapshot"
)

func eachKind(t *testing.T, test func(t *testing.T, format string, mode Mode)) {
	for _, format := range []string{"raw", "qcow2", "vmdk"} {
		for _, mode := range []Mode{Fleece, Overlay} {
			t.Run(fmt.Sprintf("%s %s", format, mode), func(t *testing.T) {
				t.Parallel() // most of the time is waiting for QEMU and for the journal to be durable
				test(t, format, mode)
			})
		}
	}
}

// TestBackups makes a full backup, increments and one that fails, all while the
// guest writes, and compares each with what the guest had written at its moment.
func TestBackups(t *testing.T) {
	eachKind(t, func(t *testing.T, format string, mode Mode) {
		l := newLab(t, format, 2)
		p := l.provider(mode)
		l.write(0, 20)
		l.write(1, 20)
		points := map[string][][]byte{}
		for n, step := range []struct {
			id, parent string
			done       bool
			want       string // bitmaps behind it
		}{
			{"b1", "", true, "b1+"},
			{"b2", "b1", true, "b1 b2+"},
			{"failed", "b2", false, "b1 b2+"},
			{"b3", "b2", true, "b1 b2 b3+"},
			{"b4", "b2", true, "b2 b3 b4+"}, // past the last one
		} {
			want := l.points()
			points[step.id] = want
			s := l.take(p, step.id, step.parent)
			if len(s.Disks) != 2 || s.Machine != "lab" || s.Consistency != snapshot.Crash || s.Stall <= 0 || s.Provider != "qmp" {
				t.Fatalf("snapshot %+v", s)
			}
			var guest sync.WaitGroup
			guest.Go(func() { l.write(0, 6); l.write(1, 6) })
			for i := range s.Disks {
				d := &s.Disks[i]
				if d.Key != fmt.Sprint("vd", i) || d.Path != l.paths[i] || d.Info.Kind != format || d.Info.SizeBytes != labSize {
					t.Errorf("disk %+v", d)
				}
				if step.parent == "" {
					same(t, step.id, read(t, d.Image), want[i])
					continue
				}
				got, changed := apply(t, points[step.parent][i], d, step.parent)
				same(t, step.id, got, want[i])
				if changed == 0 || changed > labSize*3/4 {
					t.Errorf("%s: %d bytes changed", step.id, changed)
				}
			}
			guest.Wait()
			for i := range s.Disks { // once more, when all has been written over
				same(t, step.id, read(t, s.Disks[i].Image), want[i])
			}
			l.release(s, step.done)
			if got := l.bitmaps(0); got != step.want {
				t.Errorf("%s: bitmaps %q, want %q", step.id, got, step.want)
			}
			l.write(n%2, 5)
		}
		// The disk itself has what the guest wrote.
		l.quit()
		for i, p := range l.paths {
			raw := p + ".out"
			tool(t, "qemu-img", "convert", "-f", format, "-O", "raw", p, raw)
			same(t, "disk", readFile(t, raw), l.model[i])
		}
	})
}

// TestDriveOption is about machines whose block nodes QEMU has named itself.
func TestDriveOption(t *testing.T) {
	for _, mode := range []Mode{Fleece, Overlay} {
		t.Run(string(mode), func(t *testing.T) {
			l := newLabOf(t, "qcow2", 2, true)
			l.write(0, 10)
			before := l.points()
			s := l.take(l.provider(mode), "b1", "")
			if len(s.Disks) != 2 || s.Disks[0].Key != "virtio0" || s.Disks[1].Key != "virtio1" {
				t.Fatalf("disks %+v", s.Disks)
			}
			l.write(0, 5)
			same(t, "full", read(t, s.Disks[0].Image), before[0])
			l.release(s, true)
			want := l.points()
			s = l.take(l.provider(mode), "b2", "b1")
			l.write(0, 5)
			got, _ := apply(t, before[0], &s.Disks[0], "b1")
			same(t, "increment", got, want[0])
			l.release(s, true)
		})
	}
}

// TestBitmapThatStopped has somebody stop the bitmap that records: what it does
// not have any more must not be taken for unchanged.
func TestBitmapThatStopped(t *testing.T) {
	l := newLab(t, "qcow2", 1)
	l.write(0, 5)
	l.release(l.take(l.provider(Fleece), "b1", ""), true)
	if err := l.monitor.Run(t.Context(), "block-dirty-bitmap-disable", args{"node": "base0", "name": bitmapName(1, "b1")}, nil); err != nil {
		t.Fatal(err)
	}
	l.write(0, 5)
	s := l.take(l.provider(Fleece), "b2", "b1")
	if _, err := s.Disks[0].Changes("b1"); !errors.Is(err, disk.ErrMismatch) {
		t.Errorf("got %v", err)
	}
	l.release(s, true)
	s = l.take(l.provider(Fleece), "b3", "b2") // and it has begun anew
	if _, err := s.Disks[0].Changes("b2"); err != nil {
		t.Error(err)
	}
	l.release(s, true)
}
