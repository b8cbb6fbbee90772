// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/vmdk"
	"pgregory.net/rapid"
)

// histories is how many TestHistories plays unless rapid is told otherwise.
// QEMU reads every 8th of them, libvmdk every 16th.
const (
	histories   = 1000
	qemuShare   = 8
	mountShare  = 16
	mostLevels  = 4
	roomPerDisk = 256 << 20
)

// TestHistories plays random histories of additions, writes, discards of
// guests, commits and discards of levels against a plain slice, on bases of
// every kind and with levels in both naming schemes. make soak plays many more.
func TestHistories(t *testing.T) {
	testenv.Long(t)
	qemu, lib := testenv.Tool(t, "qemu-img"), findLibvmdk(t)
	setChecks(t, histories)
	place, n := fastDir(t), 0
	differed := false // then foreign readers are always asked, so that rapid finds a shorter history
	read := map[string]int{}
	rapid.Check(t, func(r *rapid.T) {
		n++
		dir := filepath.Join(place, "d")
		if err := os.RemoveAll(dir); err != nil {
			r.Fatalf("%v", err)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			r.Fatalf("%v", err)
		}
		d := randomHistory(r, dir)
		if n%qemuShare != 0 && !differed {
			return
		}
		before := differed
		differed = true
		// Both want descriptors, and libvmdk lets go of files some time after
		// the unmount.
		copied := filepath.Join(place, fmt.Sprintf("c%d", n))
		top := d.copyDescribed(copied)
		out := filepath.Join(place, "out.raw")
		qemuConvert(r, qemu, top, out)
		if b, _ := os.ReadFile(out); !slices.Equal(b, d.model) {
			r.Fatalf("qemu-img reads something else than the model, from sector %d on", difference(b, d.model)/512)
		}
		read["qemu-img"]++
		if (n%mountShare == 0 || before) && d.mountable() && lib.compare(r, filepath.Join(place, "m"), top, len(d.below)+1, d.model) {
			read["libvmdk"]++
		}
		if err := os.RemoveAll(copied); err != nil {
			r.Fatalf("%v", err)
		}
		differed = before
	})
	t.Logf("%d histories; read by %v", n, read)
}

// setChecks makes rapid run n checks unless a flag or the environment says how many.
func setChecks(t *testing.T, n int) {
	t.Helper()
	f := flag.Lookup("rapid.checks")
	if f.Value.String() != f.DefValue || os.Getenv("RAPID_CHECKS") != "" {
		return
	}
	if err := f.Value.Set(strconv.Itoa(n)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Value.Set(f.DefValue) })
}

// fastDir returns a directory in memory where there is one: most of the time
// of a history goes into making files durable. What a crash leaves other tests
// look at.
func fastDir(t *testing.T) string {
	t.Helper()
	const memory = "/dev/shm"
	if free, ok := disk.FreeBytes(memory); !ok || free < roomPerDisk {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(memory, "vmstream-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// randomHistory makes a disk and changes it, comparing it after every step.
func randomHistory(r *rapid.T, dir string) *testDisk {
	kind := rapid.SampledFrom(baseKinds()).Draw(r, "base")
	sectors := rapid.IntRange(1, 9000).Draw(r, "sectors")
	content := noise(sectors, 3)
	if rapid.Bool().Draw(r, "sparse") {
		clear(content[len(content)/1024*512:])
	}
	d := newTestDisk(r, dir, kind, content)
	most := mostLevels
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
	return d
}

// randomStep does one thing that is possible.
func randomStep(r *rapid.T, d *testDisk, most int) {
	levels := len(d.below)
	steps := []string{}
	if levels < most {
		steps = append(steps, "add")
		if d.kind != baseESX2 {
			steps = append(steps, "add hosted")
		}
	}
	if levels > 0 {
		steps = append(steps, "write", "write", "trim", "commit", "discard")
	}
	sectors := len(d.model) / 512
	switch rapid.SampledFrom(steps).Draw(r, "step") {
	case "add":
		d.add()
	case "add hosted":
		states := rapid.SliceOfN(rapid.SampledFrom(hostedStates()), vmdk.SegmentGrains(int64(len(d.model))), -1).Draw(r, "grains")
		d.addHosted(states[:vmdk.SegmentGrains(int64(len(d.model)))], rapid.Byte().Draw(r, "fill"))
	case "write":
		var pieces []piece
		for range rapid.IntRange(1, 6).Draw(r, "pieces") {
			p := piece{at: rapid.IntRange(0, sectors-1).Draw(r, "at"), fill: rapid.Byte().Draw(r, "fill")}
			p.n = rapid.IntRange(1, min(sectors-p.at, rapid.SampledFrom([]int{1, 20, 3000}).Draw(r, "most"))).Draw(r, "n")
			pieces = append(pieces, p)
		}
		d.write(pieces...)
	case "trim": // a COWD file has no way to say it but zeros
		at := rapid.IntRange(0, sectors-1).Draw(r, "at")
		d.write(piece{at: at, n: rapid.IntRange(1, sectors-at).Draw(r, "n")})
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
	qemu, lib := testenv.Tool(t, "qemu-img"), findLibvmdk(t)
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
				if !lib.compare(t, t.TempDir(), filepath.Join(copied, filepath.Base(d.top())), links, d.model) {
					t.Log("libvmdk was not asked: no FUSE")
				}
			}
			check(3)
			d.commit(1)
			check(2)
			d.commit(0)
			check(1)
		})
	}
}

// libvmdk shows the links of a chain as files, if FUSE is there.
type libvmdk struct {
	mount   string
	unmount []string
}

func findLibvmdk(t *testing.T) *libvmdk {
	t.Helper()
	l := &libvmdk{mount: testenv.Tool(t, "vmdkmount"), unmount: []string{"umount"}}
	if p, err := exec.LookPath("fusermount"); err == nil {
		l.unmount = []string{p, "-u"}
	}
	return l
}

var errNoMount = errors.New("vmdkmount")

// read returns the content of a link; link 1 is the base.
func (l *libvmdk) read(dir, path string, link int) (b []byte, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if out, err := exec.Command(l.mount, path, dir).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %w: %s", errNoMount, err, out)
	}
	defer func() {
		if out, uerr := exec.Command(l.unmount[0], append(l.unmount[1:], dir)...).CombinedOutput(); uerr != nil {
			err = errors.Join(err, fmt.Errorf("%v: %w: %s", l.unmount, uerr, out))
		}
	}()
	return os.ReadFile(filepath.Join(dir, fmt.Sprintf("vmdk%d", link)))
}

// compare compares a link with what it has to hold. Without FUSE it says so,
// where nothing may be missing it fails.
func (l *libvmdk) compare(t failer, dir, path string, link int, want []byte) bool {
	t.Helper()
	b, err := l.read(dir, path, link)
	if errors.Is(err, errNoMount) && !testenv.Required() {
		return false
	}
	if err != nil {
		t.Fatalf("%v", err)
	}
	if i := difference(b, want); i >= 0 {
		t.Fatalf("libvmdk differs at sector %d", i/512)
	}
	return true
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
