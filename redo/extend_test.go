// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// extend makes a disk larger by so many sectors.
func (d *testDisk) extend(sectors int) (*Extended, error) {
	return Extend(background(), d.named(), ExtendOptions{Options: d.options(), SizeBytes: int64(len(d.model) + sectors*512)})
}

// TestExtend adds zeros to disks, and leaves everything else as it is.
func TestExtend(t *testing.T) {
	for _, kind := range []baseKind{baseESX2, baseFlat, baseVMFS} {
		t.Run(string(kind), func(t *testing.T) {
			d := newTestDisk(t, t.TempDir(), kind, noise(5000, 1))
			old := d.model
			for _, sectors := range []int{0, 1, 40_000} {
				e, err := d.extend(sectors)
				if err != nil {
					t.Fatal(err)
				}
				if e.OldBytes != int64(len(d.model)) || e.NewBytes != int64(len(d.model)+sectors*512) || e.Rewritten || e.Path != d.named() {
					t.Errorf("%+v", e)
				}
				d.model = append(d.model, make([]byte, sectors*512)...)
				d.wantContent("extended", d.named(), d.model)
			}
			// It is a disk like others: it takes redo logs, and cannot be extended then.
			d.add()
			d.write(piece{44_000, 3, 7})
			if _, err := d.extend(1); !errors.Is(err, disk.ErrUnsupported) || !strings.Contains(err.Error(), "commit or discard") {
				t.Errorf("with a redo log: %v", err)
			}
			d.commit(0)
			d.wantContent("committed", d.named(), d.model)
			if slices.Equal(old, d.model) {
				t.Error("nothing was extended")
			}
		})
	}
}

// TestExtendDescriptor changes the capacity and the cylinders, and no other byte.
func TestExtendDescriptor(t *testing.T) {
	d := newTestDisk(t, t.TempDir(), baseVMFS, noise(4096, 1))
	text := "# Disk DescriptorFile\r\nversion=1\n# a comment\nCID=00001000\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\n  rw\t4096  VMFS \"disk-flat.vmdk\" # of 4096\nddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders=\"2\"\nddb.geometry.heads = \"64\"\nddb.geometry.sectors = \"32\"\nddb.of.ours = \"4096\"\n"
	text = strings.Replace(text, " # of 4096", "", 1)
	d.must(os.WriteFile(d.path("disk.vmdk"), []byte(text), 0o600))
	d.must(os.Chmod(d.path("disk.vmdk"), 0o640))
	if _, err := d.extend(4096); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(d.path("disk.vmdk"))
	d.must(err)
	want := strings.Replace(strings.Replace(text, "rw\t4096 ", "rw\t8192 ", 1), `cylinders="2"`, `cylinders="4"`, 1)
	if string(got) != want {
		t.Errorf("the descriptor is\n%s\nwant\n%s", got, want)
	}
	st, err := os.Stat(d.path("disk.vmdk"))
	d.must(err)
	if st.Mode().Perm() != 0o640 {
		t.Errorf("mode %v", st.Mode())
	}
}

// TestExtendRefused has disks that must not be touched.
func TestExtendRefused(t *testing.T) {
	for name, c := range map[string]struct {
		kind    baseKind
		prepare func(d *testDisk)
		sectors int
		want    error
	}{
		"smaller":       {baseFlat, func(*testDisk) {}, -8, disk.ErrUnsupported},
		"half a grain":  {baseSplit, func(d *testDisk) { d.edit("disk.vmdk", "RW 512", "RW 511") }, 8, disk.ErrUnsupported},
		"other names":   {baseSplit, func(d *testDisk) { d.rename("disk-s001.vmdk", "disk-one.vmdk") }, 8, disk.ErrUnsupported},
		"COWD":          {baseCOWD, func(*testDisk) {}, 8, disk.ErrUnsupported},
		"sparse":        {baseSparse, func(*testDisk) {}, 8, disk.ErrUnsupported}, // nobody rewrites it
		"a delta":       {baseFlat, func(d *testDisk) { d.add() }, 8, disk.ErrUnsupported},
		"a lock":        {baseFlat, func(d *testDisk) { d.must(os.WriteFile(d.path("disk.vmdk.lck"), []byte("x"), 0o600)) }, 8, disk.ErrInUse},
		"tracked":       {baseFlat, func(d *testDisk) { d.edit("disk.vmdk", "createType", "changeTrackPath=\"x-ctk.vmdk\"\ncreateType") }, 8, disk.ErrUnsupported},
		"something new": {baseFlat, func(d *testDisk) { d.append("disk-flat.vmdk", "secret") }, 8, disk.ErrMismatch},
		"a journal":     {baseFlat, func(d *testDisk) { d.must(os.WriteFile(d.path("x.vmstream-commit"), []byte("{}"), 0o600)) }, 8, disk.ErrUnsupported},
		"opened by us": {baseFlat, func(d *testDisk) {
			f, err := os.Open(d.path("disk-flat.vmdk"))
			d.must(err)
			t.Cleanup(func() { _ = f.Close() })
		}, 8, disk.ErrInUse},
	} {
		t.Run(name, func(t *testing.T) {
			d := newTestDisk(t, t.TempDir(), c.kind, noise(512, 1))
			c.prepare(d)
			before := d.tree()
			_, err := d.extend(c.sectors)
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			after := d.tree()
			for n := range before {
				if before[n] != after[n] {
					t.Errorf("%s has changed", n)
				}
			}
		})
	}
	d := newTestDisk(t, t.TempDir(), baseFlat, noise(512, 1))
	for _, size := range []int64{0, -512, 513, disk.MaxSize + 512} {
		if _, err := Extend(background(), d.named(), ExtendOptions{Options: d.options(), SizeBytes: size}); !errors.Is(err, disk.ErrUnsupported) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if e, err := Extend(background(), d.named(), ExtendOptions{Options: d.options(), SizeBytes: 1 << 20, DryRun: true}); err != nil || e.NewBytes != 1<<20 {
		t.Errorf("dry run: %v, %v", e, err)
	}
	d.wantContent("dry run", d.named(), d.model)
}

// append adds bytes to a file.
func (d *testDisk) append(name, what string) {
	d.t.Helper()
	f, err := os.OpenFile(d.path(name), os.O_WRONLY|os.O_APPEND, 0)
	d.must(err)
	_, err = f.WriteString(what)
	d.must(err)
	d.must(f.Close())
}

// rename gives an extent another name.
func (d *testDisk) rename(from, to string) {
	d.t.Helper()
	d.edit("disk.vmdk", from, to)
	d.must(os.Rename(d.path(from), d.path(to)))
}

// splitFlat makes a split disk with flat extents of these sectors.
func splitFlat(t *testing.T, content []byte, sectors ...int) *testDisk {
	t.Helper()
	d := &testDisk{t: t, dir: t.TempDir(), kind: "twoGbMaxExtentFlat", fs: OS(), model: content}
	text := "# Disk DescriptorFile\nversion=1\nCID=00001000\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n\n# Extent description\n"
	for i, n := range sectors {
		name := fmt.Sprintf("disk-f%03d.vmdk", i+1)
		text += fmt.Sprintf("RW %d FLAT \"%s\" 0\n", n, name)
		d.must(os.WriteFile(d.path(name), content[:n*512], 0o640))
		content = content[n*512:]
	}
	d.must(os.WriteFile(d.path("disk.vmdk"), []byte(text+"\nddb.adapterType = \"ide\"\nddb.geometry.cylinders = \"1\"\nddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\n"), 0o640))
	d.must(os.WriteFile(d.path(configName), []byte("disk.vmdk"), 0o600))
	return d
}

// TestExtendSplit gives split disks more extents, and lengthens the last one if it is
// flat. A file that has the next name already is left alone.
func TestExtendSplit(t *testing.T) {
	content := noise(1280, 1)
	for _, d := range []*testDisk{newTestDisk(t, t.TempDir(), baseSplit, content), splitFlat(t, content, 640, 640)} {
		letter := map[baseKind]string{baseSplit: "s"}[d.kind]
		if letter == "" {
			letter = "f"
		}
		foreign := d.path("disk-" + letter + "003.vmdk")
		d.must(os.WriteFile(foreign, []byte("something else"), 0o600))
		const large = 5<<30 + 512
		for _, size := range []int64{1<<20 + 640*512, 3 << 30, large} {
			if _, err := Extend(background(), d.named(), ExtendOptions{Options: d.options(), SizeBytes: size}); err != nil {
				t.Fatalf("%s: %v", d.kind, err)
			}
		}
		if b, err := os.ReadFile(foreign); err != nil || string(b) != "something else" {
			t.Errorf("%s: %q, %v", d.kind, b, err)
		}
		im, err := vmdk.Open(d.named(), vmdk.Options{})
		d.must(err)
		got := make([]byte, len(content))
		if err := disk.ReadFull(im, got, 0); err != nil || !bytes.Equal(got, content) || im.Size() != large {
			t.Errorf("%s: it has %d bytes, and other content: %v", d.kind, im.Size(), err)
		}
		for r, err := range im.Runs(0, im.Size()) {
			if err != nil || r.Kind == disk.Data && r.Offset >= int64(len(content)) && !zeroRun(t, im, r) {
				t.Errorf("%s: %+v, %v", d.kind, r, err)
			}
		}
		d.must(im.Close())
		desc, err := vmdk.ReadDescriptor(d.named())
		d.must(err)
		for i, e := range desc.Descriptor.Extents {
			if e.Sectors > vmdk.SplitExtentSectors {
				t.Errorf("%s: extent %d has %d sectors", d.kind, i, e.Sectors)
			}
		}
		if qemu, err := exec.LookPath("qemu-img"); err == nil {
			if out, err := exec.Command(qemu, "info", "--output=json", d.named()).CombinedOutput(); err != nil || !strings.Contains(string(out), fmt.Sprintf("\"virtual-size\": %d,", int64(large))) {
				t.Errorf("%s: %v: %s", d.kind, err, out)
			}
		}
	}
}

// zeroRun reports if a run, of at most 4 GiB of holes, has nothing but zeros.
func zeroRun(t *testing.T, im disk.Image, r disk.Run) bool {
	t.Helper()
	b := make([]byte, 1<<20)
	for off := r.Offset; off < r.End(); off += int64(len(b)) {
		p := b[:min(int64(len(b)), r.End()-off)]
		if err := disk.ReadFull(im, p, off); err != nil {
			t.Fatal(err)
		}
		if !disk.IsZero(p) {
			return false
		}
	}
	return true
}

// TestExtendRewrite has somebody else make the new file of a sparse disk.
func TestExtendRewrite(t *testing.T) {
	d := newTestDisk(t, t.TempDir(), baseSparse, noise(512, 1))
	var got vmdk.Geometry
	e, err := Extend(background(), d.named(), ExtendOptions{
		Options: d.options(), SizeBytes: 8 << 20,
		Rewrite: func(_ context.Context, path string, size int64, g vmdk.Geometry) error {
			if got = g; path != d.named() || size != 8<<20 {
				t.Errorf("%s, %d bytes", path, size)
			}
			return nil
		},
	})
	if err != nil || !e.Rewritten || got != (vmdk.Geometry{Cylinders: 8, Heads: 64, Sectors: 32}) {
		t.Errorf("%+v, %v, %v", e, err, got)
	}
}

// TestExtendStopped stops an extension at each step: the disk is as it was or as it is to
// be, and another run completes it.
func TestExtendStopped(t *testing.T) {
	for _, kind := range []baseKind{baseESX2, baseVMFS, baseSplit} {
		d := newTestDisk(t, t.TempDir(), kind, noise(640, 3))
		after := append(slices.Clone(d.model), make([]byte, 384*512)...)
		run := func(d *testDisk) error { _, err := d.extend(384); return err }
		whole := replica(t, d, 0)
		if err := run(whole); err != nil {
			t.Fatal(err)
		}
		points := whole.fs.(*crashFS).ops
		for stop := 1; stop <= points; stop++ {
			stopped := replica(t, d, stop)
			if err := run(stopped); !errors.Is(err, errStopped) {
				t.Fatalf("stopped at %d of %d: %v", stop, points, err)
			}
			for _, how := range []lose{loseAll, loseNothing, loseData} {
				left := &testDisk{t: t, dir: t.TempDir(), kind: kind, model: d.model}
				stopped.fs.(*crashFS).crash(t, left.dir, how, func() bool { return false })
				checkLeft(t, left, string(kind), d.model, after)
				left.fs = OS()
				if err := run(left); err != nil {
					t.Fatalf("stopped at %d of %d, again: %v", stop, points, err)
				}
				left.wantContent("again", left.named(), after)
			}
		}
		if points < 2 {
			t.Errorf("%s: %d steps", kind, points)
		}
	}
}
