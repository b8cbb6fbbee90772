// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"fmt"
	"sync"
	"testing"

	"github.com/vmstream/vmstream/vm/snapshot"
)

func eachKind(t *testing.T, test func(t *testing.T, format string, mode Mode)) {
	for _, format := range []string{"raw", "qcow2", "vmdk"} {
		for _, mode := range []Mode{Fleece, Overlay} {
			t.Run(fmt.Sprintf("%s %s", format, mode), func(t *testing.T) { test(t, format, mode) })
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
		var before [][]byte
		parent := ""
		for n, step := range []struct {
			id   string
			done bool
			want string // bitmaps behind it
		}{
			{"b1", true, "b1+"},
			{"b2", true, "b1 b2+"},
			{"failed", false, "b1 b2+"},
			{"b3", true, "b1 b2 b3+"},
			{"b4", true, "b2 b3 b4+"},
		} {
			want := l.points()
			s := l.take(p, step.id, parent)
			if len(s.Disks) != 2 || s.Machine != "lab" || s.Consistency != snapshot.Crash || s.Stall <= 0 || s.Provider != "qmp" {
				t.Fatalf("snapshot %+v", s)
			}
			var guest sync.WaitGroup
			guest.Go(func() { l.write(0, 10); l.write(1, 10) })
			for i := range s.Disks {
				d := &s.Disks[i]
				if d.Key != fmt.Sprint("vd", i) || d.Path != l.paths[i] || d.Info.Kind != format || d.Info.SizeBytes != labSize {
					t.Errorf("disk %+v", d)
				}
				if parent == "" {
					same(t, step.id, read(t, d.Image), want[i])
					continue
				}
				got, changed := apply(t, before[i], d, parent)
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
			if step.done {
				before, parent = want, step.id
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
