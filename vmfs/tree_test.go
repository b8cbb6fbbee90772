// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
)

func openTree(tb testing.TB, devices ...[]Device) *Tree {
	tb.Helper()
	var all []*FS
	for _, d := range devices {
		f, err := Open(d, Options{})
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, f)
	}
	t, err := NewTree(all, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// TestTreeAll finds everything of a volume by its path on a host, as the volume has it.
func TestTreeAll(t *testing.T) {
	x := loadExpected(t, "a-v5-plain")
	tree := openTree(t, devicesOf(t, x))
	f := tree.volumes[0].FS
	for i := range x.Entries {
		e := &x.Entries[i]
		name := path.Join(Root, "datastore1", e.name())
		want, err := f.Lstat(e.name())
		if err != nil {
			t.Fatal(err)
		}
		got, err := tree.Lstat(name)
		if err != nil || !tree.SameFile(got, want) || got.Size() != want.Size() || got.Name() != path.Base(name) {
			t.Errorf("%s: %v, %v", name, got, err)
			continue
		}
		if got.IsDir() {
			entries, err := disk.ReadDir(tree, name)
			if all, _ := f.ReadDir(e.name()); err != nil || len(all) != len(entries) {
				t.Errorf("%s: %d entries, want %d: %v", name, len(entries), len(all), err)
			}
		}
	}
	for _, dir := range []string{"/", "/vmfs", Root} {
		st, err := tree.Stat(dir)
		entries, err2 := disk.ReadDir(tree, dir)
		if err != nil || err2 != nil || !st.IsDir() || len(entries) != 1 || !entries[0].IsDir() {
			t.Errorf("%s: %v, %v, %v, %v", dir, st, entries, err, err2)
		}
	}
}

// TestTreeNames finds files by other names that they have, and nothing by others.
func TestTreeNames(t *testing.T) {
	tree := openTree(t, devicesOf(t, loadExpected(t, "a-v5-plain")), devicesOf(t, loadExpected(t, "a-v3-plain")))
	m := tree.volumes[0]
	const config = "/vmfs/volumes/datastore1/web01/web01.vmx"
	for name, want := range map[string]string{
		config: config,
		"/vmfs/volumes/datastore1/data/../web01/web01.vmx":          config,
		"/vmfs/volumes/" + m.uuid + "/web01/web01.vmx":              config,
		"/vmfs/datastore1/web01/web01.vmx":                          config,
		"/vmfs/volumes/datastore1":                                  "/vmfs/volumes/datastore1",
		"/vmfs/volumes/datastore1/data/link-abs":                    "/vmfs/volumes/datastore1/data/empty.dat",
		"/vmfs/volumes/datastore1/data/sub/link-rel":                "/vmfs/volumes/datastore1/data/odd-513.bin",
		"/vmfs/volumes/datastore1/web01/web01.vmx/x":                "",
		"/vmfs/volumes/datastore1/data/link-abs/x":                  "",
		"/vmfs/volumes/datastore2/web01/web01.vmx":                  "",
		"/vmfs/devices/datastore1":                                  "",
		"/etc/passwd":                                               "",
		"web01/web01.vmx":                                           "",
		"/vmfs/volumes/datastore1/../../../etc/passwd":              "",
		"/vmfs/volumes/" + tree.volumes[1].uuid + "/web01/web01.vm": "",
	} {
		got, err := tree.RealPath(name)
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
	if st, err := tree.Lstat("/vmfs/volumes/datastore1/data/link-abs"); err != nil || st.Mode().Type() != fs.ModeSymlink {
		t.Errorf("a link: %v, %v", st, err)
	}
	if _, err := tree.Open("/vmfs/volumes/datastore1/rdm/data-rdm.vmdk"); !errors.Is(err, disk.ErrUnsupported) || !strings.Contains(err.Error(), "maps a LUN") {
		t.Errorf("a raw device mapping: %v", err)
	}
	if _, err := tree.Open("/vmfs/volumes"); !errors.Is(err, disk.ErrUnsupported) {
		t.Errorf("a directory: %v", err)
	}
	if _, err := tree.OpenDir(config); !errors.Is(err, disk.ErrUnsupported) {
		t.Errorf("a file as a directory: %v", err)
	}
	if _, err := NewTree([]*FS{m.FS, m.FS}, nil); !errors.Is(err, disk.ErrUnsupported) {
		t.Errorf("one volume twice: %v", err)
	}
}

// TestTreeDirectory keeps names inside a directory.
func TestTreeDirectory(t *testing.T) {
	tree := openTree(t, devicesOf(t, loadExpected(t, "a-v5-plain")))
	d, err := tree.OpenDir("/vmfs/volumes/datastore1/data/sub")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for name, ok := range map[string]bool{
		"deeper/level 4/note with blanks.txt": true,
		"link-rel":                            false, // ../odd-513.bin
		"../odd-513.bin":                      false,
		"deeper/../../odd-513.bin":            false,
		"/vmfs/volumes/datastore1/data/sub":   false,
		"":                                    false,
		"none":                                false,
	} {
		_, err := d.Stat(name)
		f, err2 := d.Open(name)
		if (err == nil) != ok || (err2 == nil) != ok {
			t.Errorf("%q: %v, %v", name, err, err2)
		}
		if !ok {
			continue
		}
		b := make([]byte, f.Size())
		if n, err := f.ReadAt(b, 0); err != nil && err != io.EOF || n != len(b) || f.Name() != "/vmfs/volumes/datastore1/data/sub/"+name || f.Device() {
			t.Errorf("%q: %d bytes, %v, %s", name, n, err, f.Name())
		}
	}
	if st, err := d.Lstat("link-rel"); err != nil || st.Mode().Type() != fs.ModeSymlink {
		t.Errorf("a link itself: %v, %v", st, err)
	}
}

// TestTreeLoop ends in links that lead to each other.
func TestTreeLoop(t *testing.T) {
	devices := formatTest(t, FormatOptions{Label: "ds"}, 300<<20)
	w := openWriter(t, devices)
	for name, target := range map[string]string{"a": "b", "b": "/vmfs/volumes/ds/a", "up": "../../../x"} {
		if err := w.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	tree := openTree(t, readers(devices))
	if _, err := tree.Stat("/vmfs/volumes/ds/a"); !errors.Is(err, disk.ErrUnsupported) {
		t.Errorf("a loop: %v", err)
	}
	if _, err := tree.Stat("/vmfs/volumes/ds/up"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("out of everything: %v", err)
	}
}

// TestTreeLabels names volumes with one label by their UUIDs.
func TestTreeLabels(t *testing.T) {
	tree := openTree(t, readers(formatTest(t, FormatOptions{Label: "ds"}, 300<<20)), readers(formatTest(t, FormatOptions{Label: "ds"}, 300<<20)))
	for _, m := range tree.volumes {
		if got, err := tree.RealPath("/vmfs/volumes/" + m.uuid); err != nil || got != "/vmfs/volumes/"+m.uuid {
			t.Errorf("%s: %q, %v", m.uuid, got, err)
		}
	}
	if _, err := tree.Stat("/vmfs/volumes/ds"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a label of two: %v", err)
	}
}

// beating is a device whose host beats when somebody has looked at its slot.
type beating struct {
	*image
	p       patch
	skipped bool
}

func (b *beating) Forget(off, n int64) { // asked before each look
	if b.p.Offset < off || b.p.Offset >= off+n {
		return
	}
	if !b.skipped {
		b.skipped = true
		return
	}
	now, _ := hex.DecodeString(b.p.New)
	b.image = b.patched(now, b.p.Offset)
}

// TestTreeUse tells hosts that live from those that are gone.
func TestTreeUse(t *testing.T) {
	beatTime = 10 * time.Millisecond
	defer func() { beatTime = BeatTime }()
	x := loadExpected(t, "a-v5-plain")
	devices := devicesOf(t, x)
	devices[0].R = &beating{image: devices[0].R.(*image), p: x.SecondSample[0]}
	f, err := Open(devices, Options{})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := NewTree([]*FS{f}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		held, live bool
	}{
		"exclusive.log":            {true, true},
		"exclusive-journal.log":    {true, false},
		"held-flat.vmdk":           {true, false},
		"multiwriter.log":          {true, false},
		"readonly-shared.log":      {false, false},
		"released.log":             {false, false},
		"stale-cleared-slot.log":   {false, false},
		"stale-old-generation.log": {false, false},
	} {
		name = "/vmfs/volumes/datastore1/locked/" + name
		if who, err := tree.Holder(name); err != nil || (who != "") != want.held {
			t.Errorf("%s: held by %q, %v", name, who, err)
		}
		if err := tree.CheckUse(t.Context(), name); (err != nil) != want.live || err != nil && !errors.Is(err, disk.ErrInUse) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTreeUseStopped tells that it waits, and does not when nobody wants to know any more.
func TestTreeUseStopped(t *testing.T) {
	tree := openTree(t, devicesOf(t, loadExpected(t, "a-v5-plain")))
	var notes []string
	tree.note = func(s string) { notes = append(notes, s) }
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tree.CheckUse(ctx, "/vmfs/volumes/datastore1/locked/exclusive.log"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(notes) != 1 || !strings.Contains(notes[0], "looking for 20s") {
		t.Errorf("notes: %q", notes)
	}
}

// TestTreeTogether reads a volume from several goroutines.
func TestTreeTogether(t *testing.T) {
	x := loadExpected(t, "a-v5-plain")
	tree := openTree(t, devicesOf(t, x))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range x.Entries {
				e := &x.Entries[i]
				if e.Type != "file" || e.SHA256 == "" || e.Size > 1<<20 {
					continue
				}
				f, err := tree.Open(path.Join(Root, "datastore1", e.name()))
				if err != nil {
					t.Error(err)
					continue
				}
				sum := sha256.New()
				if _, err := io.Copy(sum, io.NewSectionReader(f, 0, f.Size())); err != nil || hex.EncodeToString(sum.Sum(nil)) != e.SHA256 {
					t.Errorf("%s: another content, %v", e.name(), err)
				}
			}
		})
	}
	wg.Wait()
}

// TestTreeStatNow tells what a descriptor says now, not what it said.
func TestTreeStatNow(t *testing.T) {
	x := loadExpected(t, "a-v5-plain")
	devices := devicesOf(t, x)
	m := devices[0].R.(*image)
	tree := openTree(t, devices)
	const name = "/vmfs/volumes/datastore1/web01/web01-flat.vmdk"
	before, err := tree.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	_, at, _ := tree.volumes[0].vol.find(before.Sys().(*Stat).Offset)
	const modifiedAt = 512 + 0x2C
	m.write([]byte{1, 2, 3, 4}, at+modifiedAt)
	after, err := tree.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if after.ModTime().Equal(before.ModTime()) {
		t.Error("a change is not seen")
	}
}
