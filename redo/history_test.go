// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
	"pgregory.net/rapid"
)

// TestHistories plays random histories of additions, writes, commits and
// discards against a plain slice. make soak plays many more.
func TestHistories(t *testing.T) {
	testenv.Long(t)
	qemu := testenv.Tool(t, "qemu-img")
	place, n := t.TempDir(), 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		dir := filepath.Join(place, "d")
		if err := os.RemoveAll(dir); err != nil {
			r.Fatalf("%v", err)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			r.Fatalf("%v", err)
		}
		kind := rapid.SampledFrom(baseKinds()).Draw(r, "base")
		sectors := rapid.IntRange(1, 9000).Draw(r, "sectors")
		content := noise(sectors, 3)
		if rapid.Bool().Draw(r, "sparse") {
			clear(content[len(content)/1024*512:])
		}
		d := newTestDisk(r, dir, kind, content)
		most := 4
		if kind == baseESX2 {
			most = MaxRedoLogs
		}
		for range rapid.IntRange(1, 8).Draw(r, "steps") {
			randomStep(r, d, most)
			d.wantContent("after a step", d.top(), d.model)
			if c, err := List(background(), d.named(), d.options()); err != nil || len(c.Levels) != len(d.below)+1 || c.Path != d.top() || c.Pending != nil {
				r.Fatalf("list: %+v, %v; expected %d levels up to %s", c, err, len(d.below)+1, d.top())
			}
		}
		if kind != baseESX2 && n%8 == 0 {
			copied := filepath.Join(place, "out.raw")
			qemuConvert(r, qemu, d.top(), copied)
			if b, _ := os.ReadFile(copied); !slices.Equal(b, d.model) {
				r.Fatalf("qemu-img reads something else than the model, from sector %d on", difference(b, d.model)/512)
			}
		}
	})
}

// randomStep does one thing that is possible.
func randomStep(r *rapid.T, d *testDisk, most int) {
	levels := len(d.below)
	steps := []string{}
	if levels < most {
		steps = append(steps, "add")
	}
	if levels > 0 {
		steps = append(steps, "write", "write", "commit", "discard")
	}
	switch rapid.SampledFrom(steps).Draw(r, "step") {
	case "add":
		d.add()
	case "write":
		sectors := len(d.model) / 512
		var pieces []piece
		for range rapid.IntRange(1, 6).Draw(r, "pieces") {
			p := piece{at: rapid.IntRange(0, sectors-1).Draw(r, "at"), fill: rapid.Byte().Draw(r, "fill")}
			p.n = rapid.IntRange(1, min(sectors-p.at, rapid.SampledFrom([]int{1, 20, 3000}).Draw(r, "most"))).Draw(r, "n")
			pieces = append(pieces, p)
		}
		d.write(pieces...)
	case "commit":
		d.commit(rapid.IntRange(1, levels).Draw(r, "level"))
	case "discard":
		d.discard()
	}
}

func qemuConvert(t failer, qemu, from, to string) {
	t.Helper()
	if b, err := exec.Command(qemu, "convert", "-f", "vmdk", "-O", "raw", from, to).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s", err, b)
	}
}

// TestForeignReaders has chains of every kind of base read by QEMU and libvmdk
// before and after a commit.
func TestForeignReaders(t *testing.T) {
	testenv.Long(t)
	qemu, mount := testenv.Tool(t, "qemu-img"), testenv.Tool(t, "vmdkmount")
	for _, kind := range baseKinds() {
		if kind == baseESX2 {
			continue // QEMU and libvmdk want descriptors
		}
		t.Run(string(kind), func(t *testing.T) {
			d := newTestDisk(t, t.TempDir(), kind, noise(9001, 3))
			makeLevels(d, 2)
			check := func(links int) {
				t.Helper()
				out := filepath.Join(t.TempDir(), "out.raw")
				qemuConvert(t, qemu, d.top(), out)
				if b, _ := os.ReadFile(out); !slices.Equal(b, d.model) {
					t.Fatalf("qemu-img differs at sector %d", difference(b, d.model)/512)
				}
				if kind == baseFlat {
					return // libvmdk refuses monolithicFlat
				}
				copied := t.TempDir() // libvmdk lets go of files some time after the unmount
				copyDir(t, d.dir, copied)
				mountRead(t, mount, filepath.Join(copied, filepath.Base(d.top())), links, d.model)
			}
			check(3)
			d.commit(1)
			check(2)
			d.commit(0)
			check(1)
		})
	}
}

// mountRead compares a link of a chain as libvmdk shows it; link 1 is the base.
func mountRead(t *testing.T, mount, path string, link int, want []byte) {
	t.Helper()
	dir := t.TempDir()
	if b, err := exec.CommandContext(t.Context(), mount, path, dir).CombinedOutput(); err != nil {
		if testenv.Required() {
			t.Fatalf("vmdkmount: %v: %s", err, b)
		}
		t.Skipf("vmdkmount: %v: %s", err, b)
	}
	unmount := []string{testenv.Tool(t, "umount")}
	if p, err := exec.LookPath("fusermount"); err == nil {
		unmount = []string{p, "-u"}
	}
	defer func() {
		if b, err := exec.Command(unmount[0], append(unmount[1:], dir)...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v: %s", unmount, err, b)
		}
	}()
	b, err := os.ReadFile(filepath.Join(dir, "vmdk"+string(rune('0'+link))))
	if err != nil {
		t.Fatal(err)
	}
	if i := difference(b, want); i >= 0 {
		t.Fatalf("libvmdk differs at sector %d", i/512)
	}
}

// TestQEMUCommits compares a commit of ours with one of QEMU's.
func TestQEMUCommits(t *testing.T) {
	qemu, qio := testenv.Tool(t, "qemu-img"), testenv.Tool(t, "qemu-io")
	dir, base := t.TempDir(), filepath.Join(t.TempDir(), "b")
	run := func(tool string, args ...string) {
		t.Helper()
		if b, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v: %s", tool, strings.Join(args, " "), err, b)
		}
	}
	// A hosted delta over a hosted base, both by QEMU: no file of ours.
	bottom, top := filepath.Join(dir, "disk.vmdk"), filepath.Join(dir, "disk-000001.vmdk")
	run(qemu, "create", "-f", "vmdk", bottom, "100M")
	run(qio, "-f", "vmdk", "-c", "write -P 17 1M 3M", "-c", "write -P 18 70M 64k", bottom)
	run(qemu, "create", "-f", "vmdk", "-b", bottom, "-F", "vmdk", top)
	run(qio, "-f", "vmdk", "-c", "write -P 33 2M 1M", "-c", "write -P 34 50M 200k", "-c", "write -P 35 70M 4k", top)
	run(qemu, "convert", "-f", "vmdk", "-O", "raw", top, base)
	c, err := Commit(t.Context(), top, CommitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Top != bottom || exists(top) {
		t.Fatalf("top is %s", c.Top)
	}
	out := filepath.Join(t.TempDir(), "out")
	run(qemu, "check", "-f", "vmdk", bottom)
	run(qemu, "convert", "-f", "vmdk", "-O", "raw", bottom, out)
	want, _ := os.ReadFile(base)
	got, _ := os.ReadFile(out)
	if i := difference(got, want); i >= 0 || len(got) == 0 || disk.IsZero(got) {
		t.Fatalf("after the commit the disk differs at %d", i)
	}
}
