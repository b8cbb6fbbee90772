// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/vmstream/vmstream/redo"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

// Between two backups a hundredth of the disk is written to, in pieces at random
// places. They lie at multiples of their size, which is that of a stream's grain.
const (
	changedPieceBytes = 64 << 10
	changedShare      = 100

	mergeRatio = 1.5 // of the time of copying the result
)

// incrementLimits are of a full backup's time and bytes.
var incrementLimits = []limit{{wallRatio, 0.03}, {sizeRatio, 0.03}}

// changed is a disk at two points in time. All names are paths.
type changed struct {
	top   string // a vmfsSparse delta over the disk
	base  string // the disk, in a flat extent
	after string // the disk with the changes, raw
	index string // of the full backup
}

// spread says where the changes are: in every so manieth extent of a stream.
type spread struct {
	dir string
	of  int
}

var (
	everywhere = spread{"changed", 1}
	inTenth    = spread{"changed-tenth", 10} // as where guests write to a few files
)

// changedDisk makes a flat disk and its changes, once.
func (b *bench) changedDisk(ctx context.Context, where spread) (changed, error) {
	c := changed{
		base: b.path(where.dir + "/base.vmdk"), after: b.path(where.dir + "/after.raw"), index: b.path(where.dir + "/full.json"),
	}
	kept, err := filepath.Glob(b.path(where.dir + "/base-0*1.vmdk"))
	if err == nil && len(kept) == 1 {
		c.top = kept[0]
		return c, nil
	}
	if err := b.makeFlat(where.dir, vmdk.FormatVMFS); err != nil {
		return c, err
	}
	full := pipe(b.cmd("backup", "--index-out", c.index, c.base), []string{"cat"})
	if _, err := full.run(ctx, true); err != nil {
		return c, err
	}
	added, err := redo.Add(ctx, c.base, redo.AddOptions{})
	if err != nil {
		return c, err
	}
	c.top = added.Path
	pieces := changedPieces(b.diskBytes, where.of)
	if err := writeDelta(ctx, added.Files[0], pieces); err != nil {
		return c, err
	}
	return c, b.makeAfter(c.after, pieces)
}

// changedPiece is what is written at an offset.
type changedPiece struct {
	at   int64
	data []byte
}

// changedPieces returns what is written between the backups, in the order of writing.
// They are in each of-th extent.
func changedPieces(diskBytes int64, of int) []changedPiece {
	const perExtent = stream.DefaultExtentBytes / changedPieceBytes
	fl := newFill(7)
	n := int(diskBytes / changedPieceBytes)
	var all []changedPiece
	for _, i := range rand.New(rand.NewPCG(7, 2)).Perm(n) {
		if i/perExtent%of != 0 || len(all) == n/changedShare {
			continue
		}
		p := changedPiece{at: int64(i) * changedPieceBytes, data: make([]byte, changedPieceBytes)}
		fl.write(p.data, random)
		all = append(all, p)
	}
	return all
}

// writeDelta writes as a guest would do it.
func writeDelta(ctx context.Context, path string, pieces []changedPiece) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	u, err := vmdk.OpenUpdate(ctx, f, vmdk.UpdateSpec{Name: path, FileBytes: st.Size(), Fill: strings.NewReader("")})
	if err != nil {
		return err
	}
	for _, p := range pieces {
		if _, err := u.WriteAt(p.data, p.at); err != nil {
			return err
		}
	}
	return u.Close()
}

// makeAfter makes the changed disk, for programs that compare or read everything.
func (b *bench) makeAfter(path string, pieces []changedPiece) error {
	in, err := os.Open(b.disk)
	if err != nil {
		return err
	}
	defer in.Close()
	return create(path, b.diskBytes, func(f *os.File) error {
		buf, zeros := make([]byte, 1<<20), make([]byte, 1<<20)
		for off := int64(0); off < b.diskBytes; off += int64(len(buf)) {
			if _, err := io.ReadFull(in, buf); err != nil {
				return err
			}
			if bytes.Equal(buf, zeros) {
				continue
			}
			if _, err := f.WriteAt(buf, off); err != nil {
				return err
			}
		}
		for _, p := range pieces {
			if _, err := f.WriteAt(p.data, p.at); err != nil {
				return err
			}
		}
		return nil
	})
}

// increment measures an increment beside a full backup, and what others do to
// store the same changes.
func (b *bench) increment(ctx context.Context) (row, error) {
	c, err := b.changedDisk(ctx, everywhere)
	if err != nil {
		return row{}, err
	}
	ours, full := b.backup(c.top, "--name", "base", "--since", c.index), b.backup(c.base)
	ours.before, full.before = b.settled(), b.settled()
	full.limits = append(full.limits, incrementLimits...)
	r := row{
		title: fmt.Sprintf("increment, 1 %% of %d MiB changed", b.diskBytes>>20),
		warm:  []string{b.path("changed/base-flat.vmdk"), c.after},
		cands: []cand{ours, full},
	}
	qemu, err := b.qemuIncrements(ctx, c)
	if err != nil {
		return r, err
	}
	r.cands = append(r.cands, qemu...)
	r.cands = append(r.cands, b.resticAgain(c), b.borgAgain(c))
	return r, nil
}

// qemuIncrements makes an overlay of the same changes. Finding them by comparing
// two disks is qemu-img rebase; an overlay that exists is copied or committed.
func (b *bench) qemuIncrements(ctx context.Context, c changed) ([]cand, error) {
	needs := []string{"qemu-img"}
	compare := []string{"qemu-img", "rebase", "-f", "qcow2", "-F", "vmdk", "-b", c.base, b.path("found.qcow2")}
	create := func(ctx context.Context) error {
		_, err := pipe([]string{"qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", c.after, b.path("found.qcow2")}).run(ctx, false)
		return err
	}
	rebase := cand{
		title: "qemu-img rebase -b base.vmdk found.qcow2 (backed by after.raw)", pipe: pipe(compare),
		needs: needs, before: create, size: b.lengthOf("found.qcow2"), once: true,
	}
	overlay := b.path("changes-kept/changes.qcow2")
	if rebase.missing() == "" {
		if err := create(ctx); err != nil {
			return nil, err
		}
		if _, err := rebase.pipe.run(ctx, false); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(filepath.Dir(overlay), 0o700); err != nil {
			return nil, err
		}
		if err := os.Rename(b.path("found.qcow2"), overlay); err != nil {
			return nil, err
		}
	}
	copied := cand{
		title: "qemu-img convert -B base.vmdk changes.qcow2 out.qcow2",
		pipe:  pipe([]string{"qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", "-F", "vmdk", "-B", c.base, overlay, b.path("out.qcow2")}),
		needs: needs, before: b.fresh("out.qcow2"), size: b.lengthOf("out.qcow2"),
	}
	commit := cand{
		title: "qemu-img commit changes.qcow2 (into base.raw)",
		pipe:  pipe([]string{"qemu-img", "commit", "-q", "-f", "qcow2", b.path("into/changes.qcow2")}),
		needs: needs, before: b.beforeCommit(),
	}
	return []cand{copied, rebase, commit}, nil
}

// beforeCommit puts the overlay over a raw base of its own. The base is made
// once: a second commit writes the same bytes to it.
func (b *bench) beforeCommit() func(context.Context) error {
	base := b.path("into/base.raw")
	return func(ctx context.Context) error {
		if _, err := os.Stat(base); err != nil {
			if err := os.MkdirAll(b.path("into"), 0o700); err != nil {
				return err
			}
			if err := b.makeAfter(base, nil); err != nil {
				return err
			}
		}
		if err := b.restoreFiles("into", "changes-kept")(ctx); err != nil {
			return err
		}
		_, err := pipe([]string{"qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", base, b.path("into/changes.qcow2")}).run(ctx, false)
		return err
	}
}

// lengthOf returns a function that returns the length of a file.
func (b *bench) lengthOf(name string) func() (int64, error) {
	return func() (int64, error) {
		fi, err := os.Stat(b.path(name))
		if err != nil {
			return 0, err
		}
		return fi.Size(), nil
	}
}

// resticAgain and borgAgain store the changed disk where the disk is already:
// its size is what is added.
func (b *bench) resticAgain(c changed) cand {
	again := b.restic()
	again.pipe.stages = [][]string{{"restic", "--no-cache", "-q", "backup", "--stdin", "--stdin-filename", "disk.raw"}}
	return b.again(again, "restic", again.pipe, c)
}

func (b *bench) borgAgain(c changed) cand {
	again := b.borg()
	first := again.pipe
	first.stages = [][]string{{"borg", "create", "--compression", "zstd,1", "::first", "-"}}
	again.pipe.stages = [][]string{{"borg", "create", "--compression", "zstd,1", "::second", "-"}}
	return b.again(again, "borg", first, c)
}

func (b *bench) again(second cand, dir string, first pipeline, c changed) cand {
	second.pipe = second.pipe.from(c.after)
	second.title = second.pipe.String() + ", second run"
	newRepository, size, before := second.before, second.size, int64(0)
	second.before = func(ctx context.Context) error {
		if err := newRepository(ctx); err != nil {
			return err
		}
		if _, err := first.from(b.disk).run(ctx, false); err != nil {
			return err
		}
		var err error
		before, err = size()
		return err
	}
	second.size = func() (int64, error) {
		n, err := size()
		return n - before, err
	}
	return second
}

// settled removes files of the place to work before they are written, and has what runs
// before have written brought to the disk: otherwise who comes next pays.
func (b *bench) settled(names ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := b.fresh(names...)(ctx); err != nil {
			return err
		}
		_, err := pipe([]string{"sync"}).run(ctx, false)
		return err
	}
}

// incrementKept measures both from the disk to the disk.
func (b *bench) incrementKept(ctx context.Context) (row, error) {
	c, err := b.changedDisk(ctx, everywhere)
	if err != nil {
		return row{}, err
	}
	disk, delta := b.path("changed/base-flat.vmdk"), strings.TrimSuffix(c.top, ".vmdk")+"-delta.vmdk"
	ours := b.kept("increment.tar", "vmstream -q backup --name base --since full.json base-000001.vmdk", []string{delta},
		b.cmd("backup", "--name", "base", "--since", c.index, c.top)...)
	full := b.kept("full.tar", "vmstream -q backup base.vmdk", []string{disk}, b.cmd("backup", c.base)...)
	full.limits = incrementLimits
	return row{
		title: fmt.Sprintf("increment, 1 %% of %d MiB changed, from the disk to the disk", b.diskBytes>>20),
		cands: []cand{ours, full},
	}, nil
}

// kept runs a command whose output goes to a file, until that is on the disk. What is
// read is not in memory.
func (b *bench) kept(file, title string, reads []string, argv ...string) cand {
	return cand{
		title: fmt.Sprintf("%s > %s && sync %[2]s", title, file),
		pipe:  shell(fmt.Sprintf("%s > %s && sync %[2]s", strings.Join(argv, " "), b.path(file))),
		before: func(ctx context.Context) error {
			if err := b.settled(file)(ctx); err != nil {
				return err
			}
			return forget(reads...)
		},
		size: b.lengthOf(file), needs: []string{"sync"},
	}
}

// mergeStreams makes the streams that are merged, and a fresh full of what a merge
// makes of them.
func (b *bench) mergeStreams(ctx context.Context, where spread) error {
	c, err := b.changedDisk(ctx, where)
	if err != nil {
		return err
	}
	streams := map[string][]string{
		"full.tar":      b.cmd("backup", "--id", "full", "--index-out", b.path("full.json"), c.base),
		"increment.tar": b.cmd("backup", "--id", "increment", "--name", "base", "--since", b.path("full.json"), c.top),
		"fresh.tar":     b.cmd("backup", "--id", "increment", "--name", "base", c.top),
	}
	for _, name := range []string{"full.tar", "increment.tar", "fresh.tar"} {
		p := pipe(streams[name])
		p.stdout = b.path(name)
		if _, err := p.run(ctx, false); err != nil {
			return err
		}
	}
	return nil
}

// mergeRow is a row about merging, with a check of the result of the first line.
func (b *bench) mergeRow(where spread, how string, cands ...cand) row {
	cands[0].check = func(ctx context.Context) error { return b.sameExtents(ctx, "merged.tar", "fresh.tar") }
	changes := "all over the disk"
	if where != everywhere {
		changes = "in a tenth of the disk"
	}
	return row{title: "merge a full backup and an increment of 1 %, " + changes + how, cands: cands}
}

func (b *bench) mergeCommand() []string {
	return b.cmd("merge", b.path("full.tar"), b.path("increment.tar"))
}

// mergeKept measures a synthetic full beside a copy of what it makes, from the disk to
// the disk: backups are seldom in memory. It compares its extents with those of a fresh
// full.
func (b *bench) mergeKept(ctx context.Context) (row, error) {
	if err := b.mergeStreams(ctx, everywhere); err != nil {
		return row{}, err
	}
	full, increment, fresh := b.path("full.tar"), b.path("increment.tar"), b.path("fresh.tar")
	ours := b.kept("merged.tar", "vmstream merge full.tar increment.tar", []string{full, increment}, b.mergeCommand()...)
	copied := b.kept("copy.tar", "cat fresh.tar", []string{fresh}, "cat", fresh)
	copied.limits = []limit{{wallRatio, mergeRatio}}
	return b.mergeRow(everywhere, ", from the disk to the disk", ours, copied), nil
}

// merge does the same from memory to memory.
func (b *bench) merge(ctx context.Context, where spread) (row, error) {
	if err := b.mergeStreams(ctx, where); err != nil {
		return row{}, err
	}
	ours := cand{
		title: "vmstream merge full.tar increment.tar > merged.tar",
		pipe:  pipe(b.mergeCommand()), before: b.settled("merged.tar"),
		size:   b.lengthOf("merged.tar"),
		limits: []limit{{rssMiB, defaultRSS}},
	}
	ours.pipe.stdout = b.path("merged.tar")
	copied := cand{
		title: "cp fresh.tar copy.tar", pipe: pipe([]string{"cp", b.path("fresh.tar"), b.path("copy.tar")}),
		before: b.settled("copy.tar"), size: b.lengthOf("copy.tar"), needs: []string{"cp"}, limits: []limit{{wallRatio, mergeRatio}},
	}
	piped := cand{pipe: pipe(b.mergeCommand(), consumer)}
	fi, err := os.Stat(b.path("fresh.tar"))
	if err != nil {
		return row{}, err
	}
	digests := cand{
		title: "SHA-256 of twice as many bytes in Go, two cores at a time: what a merge has to compute",
		measure: func(context.Context) (usage, error) {
			n := min(2, runtime.NumCPU())
			t := hashTime(2*fi.Size()/int64(n), n)
			return usage{Wall: t, CPU: t * time.Duration(n)}, nil
		},
	}
	r := b.mergeRow(where, "", ours, copied, piped, digests)
	r.warm = []string{b.path("full.tar"), b.path("increment.tar"), b.path("fresh.tar")}
	return r, nil
}

// sameExtents compares the digests of two streams' extents.
func (b *bench) sameExtents(ctx context.Context, names ...string) error {
	var sums []string
	for _, name := range names {
		file := b.path(name + ".sums")
		p := pipe([]string{"tar", "-xOf", b.path(name), "--wildcards", "*/SHA256SUMS"})
		p.stdout = file
		if _, err := p.run(ctx, false); err != nil {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		lines := slices.DeleteFunc(strings.Split(string(text), "\n"), func(l string) bool { return strings.HasSuffix(l, "vmstream.json") })
		sums = append(sums, strings.Join(lines, "\n"))
	}
	if len(strings.Split(sums[0], "\n")) < 3 || sums[0] != sums[1] {
		return fmt.Errorf("the extents of %s and %s differ:\n%s\n%s", names[0], names[1], sums[0], sums[1])
	}
	return nil
}
