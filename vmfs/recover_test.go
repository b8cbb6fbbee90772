// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
)

// quick makes looks at heartbeats short, until the test ends.
func quick(t *testing.T) {
	beatTime = 10 * time.Millisecond
	t.Cleanup(func() { beatTime = BeatTime })
}

// leftBehind returns the devices of a volume whose hosts are gone, to be written to.
func leftBehind(t *testing.T, name string) ([]WriteDevice, []memory) {
	t.Helper()
	var devices []WriteDevice
	var images []memory
	for _, d := range devicesOf(t, loadExpected(t, name)) {
		m := memory{d.R.(*image)}
		images = append(images, m)
		devices = append(devices, WriteDevice{Name: d.Name, RW: m, SizeBytes: d.SizeBytes})
	}
	return devices, images
}

// sectorsThatDiffer returns the offsets of the sectors that are not the same.
func sectorsThatDiffer(a, b memory) []int64 {
	var all []int64
	for at := range b.chunks {
		was := a.chunks[at]
		if was == nil {
			was = make([]byte, chunkBytes)
		}
		for i := 0; i < chunkBytes; i += disk.SectorSize {
			if !slices.Equal(was[i:i+disk.SectorSize], b.chunks[at][i:i+disk.SectorSize]) {
				all = append(all, at*chunkBytes+int64(i))
			}
		}
	}
	slices.Sort(all)
	return all
}

// TestRecover frees slots and locks, changes nothing else, and leaves a volume that nobody
// uses.
func TestRecover(t *testing.T) {
	quick(t)
	for _, name := range []string{"a-v5-plain", "a-v3-plain"} {
		devices, images := leftBehind(t, name)
		var before []memory
		for _, m := range images {
			before = append(before, memory{m.clone()})
		}
		if err := Recover(t.Context(), devices, RecoverOptions{}); !errors.Is(err, ErrInUse) {
			t.Errorf("%s: a journal: %v", name, err)
		}
		var dry, done []Released
		if err := Recover(t.Context(), devices, RecoverOptions{DropJournals: true, DryRun: true, Report: func(r Released) { dry = append(dry, r) }}); err != nil {
			t.Fatal(err)
		}
		for i := range images {
			if got := sectorsThatDiffer(before[i], images[i]); len(got) > 0 {
				t.Errorf("%s: a dry run has changed %x", name, got)
			}
		}
		if err := Recover(t.Context(), devices, RecoverOptions{DropJournals: true, Report: func(r Released) { done = append(done, r) }}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(dry, done) || len(done) < 5 {
			t.Errorf("%s: freed %v, in the dry run %v", name, done, dry)
		}
		for i, m := range images {
			var want []int64
			for _, r := range done {
				if r.Device == devices[i].Name {
					want = append(want, r.Offset)
				}
			}
			slices.Sort(want)
			if got := sectorsThatDiffer(before[i], m); !slices.Equal(got, want) {
				t.Errorf("%s: %s: changed sectors at %x, told %x", name, devices[i].Name, got, want)
			}
		}
		sound(t, devices) // no notes of locks either
		w, err := OpenWriter(devices, Options{})
		if err != nil {
			t.Errorf("%s: it cannot be written: %v", name, err)
		} else if err := w.Close(); err != nil {
			t.Error(err)
		}
		var again []Released
		if err := Recover(t.Context(), devices, RecoverOptions{Report: func(r Released) { again = append(again, r) }}); err != nil || len(again) > 0 {
			t.Errorf("%s: again: %v, %v", name, again, err)
		}
	}
}

// TestRecoverNames names files and tables.
func TestRecoverNames(t *testing.T) {
	quick(t)
	devices, _ := leftBehind(t, "a-v5-plain")
	names := map[string]string{}
	if err := Recover(t.Context(), devices, RecoverOptions{DropJournals: true, DryRun: true, Report: func(r Released) { names[r.Name] = r.Host }}); err != nil {
		t.Fatal(err)
	}
	for name, host := range map[string]string{
		"locked/exclusive.log":          "67d94122-ff11416a-2333-005056003a3b",
		"locked/multiwriter.log":        "67d94122-dd4533e5-f7b5-0050565a44e2",
		"locked/stale-cleared-slot.log": "67d94122-dd4533e5-f7b5-0050565a44e2",
		"locked/released.log":           "",
	} {
		if names[name] != host {
			t.Errorf("%s: %q, want %q", name, names[name], host)
		}
	}
}

// TestRecoverRefuses changes nothing of a volume that a host uses, of VMFS-6, and of one
// whose devices are not all there.
func TestRecoverRefuses(t *testing.T) {
	quick(t)
	x := loadExpected(t, "a-v5-plain")
	devices, images := leftBehind(t, "a-v5-plain")
	before := memory{images[0].clone()}
	devices[0].RW = &beatingWriter{beating{image: images[0].image, p: x.SecondSample[0]}}
	if err := Recover(t.Context(), devices, RecoverOptions{DropJournals: true}); !errors.Is(err, ErrInUse) {
		t.Errorf("a host that lives: %v", err)
	}
	if got := sectorsThatDiffer(before, images[0]); len(got) > 0 {
		t.Errorf("changed %x", got)
	}
	v6, _ := leftBehind(t, "a-v6-plain")
	if err := Recover(t.Context(), v6, RecoverOptions{DropJournals: true}); !errors.Is(err, disk.ErrUnsupported) {
		t.Errorf("VMFS-6: %v", err)
	}
	span, _ := leftBehind(t, "a-v5-span2")
	if err := Recover(t.Context(), span[:1], RecoverOptions{DropJournals: true}); !errors.Is(err, ErrMissingDevice) {
		t.Errorf("a device is missing: %v", err)
	}
	if err := Recover(t.Context(), span, RecoverOptions{Options: Options{AllowMissing: true}}); !errors.Is(err, disk.ErrUnsupported) {
		t.Errorf("a device may be missing: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Recover(ctx, span, RecoverOptions{DropJournals: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
}

// beatingWriter is a beating device that can be written.
type beatingWriter struct{ beating }

func (b *beatingWriter) WriteAt(p []byte, off int64) (int, error) {
	return 0, fmt.Errorf("%d bytes at %d are written", len(p), off)
}

// TestRecoverCrash ends a recovery at each of its writes; another one frees the rest.
func TestRecoverCrash(t *testing.T) {
	quick(t)
	whole, want := leftBehind(t, "a-v5-plain")
	writes := 0
	if err := Recover(t.Context(), whole, RecoverOptions{DropJournals: true, Report: func(Released) { writes++ }}); err != nil {
		t.Fatal(err)
	}
	for n := range writes {
		devices, images := leftBehind(t, "a-v5-plain")
		dying := []WriteDevice{{Name: devices[0].Name, RW: &crashing{ReadWriterAt: devices[0].RW, left: n}, SizeBytes: devices[0].SizeBytes}}
		if err := Recover(t.Context(), dying, RecoverOptions{DropJournals: true}); !errors.Is(err, errCrash) {
			t.Fatalf("%d writes: %v", n, err)
		}
		if _, err := Open(readers(devices), Options{}); err != nil {
			t.Fatalf("%d writes: %v", n, err)
		}
		if err := Recover(t.Context(), devices, RecoverOptions{DropJournals: true}); err != nil {
			t.Fatalf("%d writes, again: %v", n, err)
		}
		if got := sectorsThatDiffer(want[0], images[0]); len(got) > 0 {
			t.Errorf("%d writes, again: sectors at %x differ", n, got)
		}
	}
}
