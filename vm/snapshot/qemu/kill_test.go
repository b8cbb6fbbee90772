// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/vm/snapshot"
)

// killer stops a run at its n-th step, as kill -9 would: nothing is undone, and
// connections end.
type killer struct {
	n, at int
	last  string
	all   []string
}

func (k *killer) step(name string) error {
	k.n++
	k.all = append(k.all, name)
	if k.at > 0 && k.n >= k.at {
		if k.last == "" {
			k.last = name
		}
		return errKilled
	}
	return nil
}

// run makes a backup up to where it is killed. It reports if the backup had been
// complete, and how far a complete one reads.
func (l *lab) run(mode Mode, k *killer, id, parent string, done bool, before [][]byte) (complete bool) {
	l.t.Helper()
	p := l.provider(mode)
	p.hook = k.step
	want := l.points()
	s, err := snapshot.Take(l.t.Context(), p, l.journal, l.request(id, parent))
	if err != nil {
		if !errors.Is(err, errKilled) {
			l.t.Fatalf("step %d, %s: %v", k.at, k.last, err)
		}
		return false
	}
	l.write(0, 3)
	got, _ := apply(l.t, before[0], &s.Disks[0], parent)
	same(l.t, id, got, want[0])
	if err := s.Check(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	if k.at%2 == 0 { // killed while it is stored, or once it has been
		switch err := s.EndReading(l.t.Context()); {
		case err == nil:
			l.letGo(s)
			l.write(0, 3)
		case !errors.Is(err, errKilled):
			l.t.Fatalf("step %d, %s: %v", k.at, k.last, err)
		}
	}
	if err := s.Release(l.t.Context(), done); err != nil && !errors.Is(err, errKilled) {
		l.t.Fatalf("step %d, %s: %v", k.at, k.last, err)
	}
	return done && s.Disks != nil
}

// TestKilledAnywhere kills a run at every step, from the first to the last, reaps
// it, and makes the increment again that did not come to its end. The reaping is
// killed as well, once at each of its steps in turn.
func TestKilledAnywhere(t *testing.T) {
	testenv.Long(t)
	eachKind(t, func(t *testing.T, format string, mode Mode) {
		if format == "vmdk" && mode == Fleece || format == "raw" && mode == Overlay {
			t.Skip("the same steps as with another format")
		}
		l := newLab(t, format, 1)
		l.write(0, 20)
		before := l.points()
		l.release(l.take(l.provider(mode), "b0", ""), true)
		parent := "b0"
		killed := 0
		steps := 1
		if format == "raw" || format == "qcow2" && mode == Overlay {
			steps = 3 // the others have every step
		}
		for at := 1; ; at += steps {
			done := at%4 < 2
			l.write(0, 2)
			point := l.points()
			k := &killer{at: at}
			id := fmt.Sprint("k", at)
			complete := l.run(mode, k, id, parent, done, before)
			if k.last == "" { // it ran to its end
				if killed < 20/steps {
					t.Errorf("only %d steps: %v", killed, k.all)
				}
				l.clean()
				return
			}
			killed++
			l.write(0, 2)
			if l.io(0, "flush") != nil {
				t.Errorf("step %d, %s: the guest does not go on", at, k.last)
			}
			for again := 1; ; again++ { // reaping is killed too, later each time
				r := &killer{at: again * 3}
				p := l.provider(mode)
				p.hook = r.step
				err := l.reap(p)
				if err != nil && !errors.Is(err, errKilled) {
					t.Fatalf("step %d, %s: reap: %v", at, k.last, err)
				}
				if err == nil {
					break
				}
			}
			l.clean()
			if t.Failed() {
				t.Fatalf("killed at step %d, %s, after %v", at, k.last, k.all)
			}
			// A run that had finished counts if it got so far that the journal
			// says so; its bitmap is there then.
			if complete && strings.Contains(l.bitmaps(0), id+"+") {
				before, parent = point, id
			}
			want := l.points()
			s := l.take(l.provider(mode), id+"again", parent)
			l.write(0, 2)
			got, _ := apply(t, before[0], &s.Disks[0], parent)
			same(t, fmt.Sprintf("increment after a kill at step %d, %s", at, k.last), got, want[0])
			l.release(s, true)
			before, parent = want, id+"again"
		}
	})
}

// TestQEMUDies has QEMU killed while a snapshot is there.
func TestQEMUDies(t *testing.T) {
	t.Run("fleece", func(t *testing.T) {
		l := newLab(t, "qcow2", 1)
		l.write(0, 10)
		l.release(l.take(l.provider(Fleece), "b1", ""), true)
		l.quit() // which stores the bitmap
		l.start()
		s := l.take(l.provider(Fleece), "b2", "")
		l.write(0, 10)
		l.kill()
		if err := s.Check(t.Context()); err == nil {
			t.Error("the check succeeds without QEMU")
		}
		if _, err := s.Disks[0].Image.ReadAt(make([]byte, 512), 0); err == nil {
			t.Error("a read succeeds without QEMU")
		}
		if err := s.Release(t.Context(), false); err == nil {
			t.Error("the release succeeds without QEMU")
		}
		if err := l.reap(l.provider(Fleece)); err != nil {
			t.Errorf("reap: %v", err)
		}
		l.noFiles()
		// The bitmap was not stored again: it cannot be trusted any more.
		l.start()
		s = l.take(l.provider(Fleece), "b3", "b1")
		if _, err := s.Disks[0].Changes("b1"); !errors.Is(err, disk.ErrMismatch) || !strings.Contains(fmt.Sprint(err), "inconsistent") {
			t.Errorf("an increment from bitmaps of a QEMU that was killed: %v", err)
		}
		l.release(s, true)
		if got := l.bitmaps(0); got != "b3+" {
			t.Errorf("bitmaps %q", got)
		}
	})
	t.Run("overlay", func(t *testing.T) {
		l := newLab(t, "raw", 1)
		l.write(0, 10)
		s := l.take(l.provider(Overlay), "b1", "")
		over := l.overlayFile()
		l.write(0, 10)
		if err := l.io(0, "flush"); err != nil {
			t.Fatal(err)
		}
		l.kill()
		_ = s.Release(t.Context(), false)
		check := func(when string) {
			t.Helper()
			if err := l.reap(l.provider(Overlay)); !errors.Is(err, disk.ErrMismatch) || !strings.Contains(fmt.Sprint(err), "qemu-img commit -d -f qcow2 "+over) {
				t.Errorf("%s: reap: %v", when, err)
			}
			if _, err := os.Stat(over); err != nil {
				t.Fatalf("%s: what the guest wrote was removed: %v", when, err)
			}
		}
		check("without QEMU")
		l.start() // as who does not know would
		check("with another QEMU")
		l.quit()
		tool(t, "qemu-img", "commit", "-q", "-d", "-f", "qcow2", over)
		if err := os.Remove(over); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(readFile(t, l.paths[0]), l.model[0]) {
			t.Error("the disk is not what the guest wrote, after what reap told to do")
		}
		if err := l.reap(l.provider(Overlay)); err != nil {
			t.Errorf("reap: %v", err)
		}
	})
}

func (l *lab) overlayFile() string {
	l.t.Helper()
	list, err := l.journal.List()
	if err != nil || len(list) != 1 {
		l.t.Fatalf("journal: %+v, %v", list, err)
	}
	id := list[0].ID
	return fmt.Sprintf("%s/%s%s-0.qcow2", l.dir, tempPrefix, id[len(id)-8:])
}

// TestRestarted is about bitmaps of a QEMU that ended in order.
func TestRestarted(t *testing.T) {
	for _, format := range []string{"qcow2", "raw"} {
		t.Run(format, func(t *testing.T) {
			l := newLab(t, format, 1)
			l.write(0, 10)
			before := l.points()
			l.release(l.take(l.provider(Auto), "b1", ""), true)
			l.write(0, 5)
			l.quit()
			l.start()
			l.write(0, 5)
			want := l.points()
			s := l.take(l.provider(Auto), "b2", "b1")
			if format == "raw" {
				if _, err := s.Disks[0].Changes("b1"); !errors.Is(err, disk.ErrMismatch) || !strings.Contains(fmt.Sprint(err), "full backup is needed") {
					t.Errorf("got %v", err)
				}
			} else {
				got, _ := apply(t, before[0], &s.Disks[0], "b1")
				same(t, "increment", got, want[0])
			}
			if _, err := s.Disks[0].Changes("b0"); !errors.Is(err, disk.ErrMismatch) {
				t.Errorf("another parent: %v", err)
			}
			l.release(s, true)
		})
	}
}
