// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// makeXFS makes a file system, fills it and removes some files.
func makeXFS(t *testing.T, seed uint64, size int64, args ...string) (image, tree string) {
	t.Helper()
	tree, remove := randomTree(t, seed)
	image = filepath.Join(t.TempDir(), "xfs.img")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.xfs", append(append([]string{"-q", "-f"}, args...), image)...)
	dir := mountOnce(t, image, "xfs")
	run(t, "cp", "-r", tree+"/.", dir)
	for _, name := range remove {
		if err := os.Remove(filepath.Join(tree, name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "umount", dir)
	return image, tree
}

// mountOnce mounts an image that the test unmounts.
func mountOnce(t *testing.T, image, kind string, options ...string) (dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir = t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-o", strings.Join(append(options, "loop"), ","), "-t", kind, image, dir).CombinedOutput(); err != nil {
		t.Skipf("nothing can be mounted here: %v: %s", err, out)
	}
	return dir
}

// xfsFree returns what xfs_db says is free.
func xfsFree(t *testing.T, image string, agBlocks, bs int64) []span {
	t.Helper()
	var s spanSet
	in := bufio.NewScanner(strings.NewReader(run(t, "xfs_db", "-r", "-c", "freesp -d", image)))
	for in.Scan() {
		var ag, at, n int64
		if k, err := fmt.Sscan(in.Text(), &ag, &at, &n); err != nil || k != 3 || len(strings.Fields(in.Text())) != 3 {
			continue
		}
		s.add((ag*agBlocks+at)*bs, n*bs)
	}
	return s.done()
}

// TestXFS compares what is free with what xfs_db says, and has xfs_repair and Linux read an
// image whose free space has been zeroed.
func TestXFS(t *testing.T) {
	for i, x := range []struct {
		name string
		size int64
		args []string
	}{
		{"default", 400 << 20, nil},
		{"1k", 320 << 20, []string{"-b", "size=1024"}},
		{"4k sectors", 400 << 20, []string{"-s", "size=4096"}},
		{"many groups", 8 << 30, []string{"-d", "agcount=23"}},
		{"rmapbt, bigtime", 600 << 20, []string{"-m", "rmapbt=1,reflink=1,bigtime=1,inobtcount=1"}},
		{"no reflink", 400 << 20, []string{"-m", "reflink=0"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			image, tree := makeXFS(t, uint64(400+i), x.size, x.args...)
			m := find(t, image, "xfs")
			f := &xfsFS{v: &volume{ctx: t.Context(), im: openImage(t, image), area: whole("", 0, x.size)}}
			if err := f.super(); err != nil {
				t.Fatal(err)
			}
			want := xfsFree(t, image, int64(f.agBlocks), f.bs)
			// xfs_db also tells blocks that the groups keep for their trees.
			if left := without(m.spans, want); len(left) > 0 {
				t.Errorf("what is used is taken for free: %v", left)
			}
			if left := total(without(want, m.spans)); left > int64(f.ags)*64*f.bs {
				t.Errorf("%d bytes that are free are taken for used", left)
			}
			zero := zeroed(t, m, image)
			run(t, "xfs_repair", "-n", zero)
			dir := mountOnce(t, zero, "xfs", "ro", "nouuid")
			run(t, "diff", "-r", tree, dir)
			run(t, "umount", dir)
		})
	}
}

// TestXFSVersion4 is about what Linux does not mount everywhere any more: what mkfs.xfs makes.
func TestXFSVersion4(t *testing.T) {
	tree, _ := randomTree(t, 11)
	proto := filepath.Join(t.TempDir(), "proto")
	text := "/boot 0 0\nd--755 0 0\n"
	for i, name := range []string{"d0/f000", "d1/f001", "d2/f002", "d6/f020"} {
		text += fmt.Sprintf("f%d ---644 0 0 %s\n", i, filepath.Join(tree, name))
	}
	image := filepath.Join(t.TempDir(), "xfs.img")
	if err := errors.Join(os.WriteFile(proto, []byte(text+"$\n"), 0o600), os.WriteFile(image, nil, 0o600), os.Truncate(image, 400<<20)); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.xfs", "-q", "-f", "-m", "crc=0,finobt=0", "-p", proto, image)
	m := find(t, image, "xfs")
	f := &xfsFS{v: &volume{ctx: t.Context(), im: openImage(t, image), area: whole("", 0, 400<<20)}}
	if err := f.super(); err != nil || f.crc {
		t.Fatal(err)
	}
	if left := without(m.spans, xfsFree(t, image, int64(f.agBlocks), f.bs)); len(left) > 0 || m.FreeBytes < 200<<20 {
		t.Errorf("%d bytes are free, and what is used: %v", m.FreeBytes, left)
	}
	run(t, "xfs_repair", "-n", zeroed(t, m, image))
}

// TestXFSMounted takes one whole that is mounted.
func TestXFSMounted(t *testing.T) {
	image, _ := makeXFS(t, 500, 400<<20)
	dir := mountOnce(t, image, "xfs")
	churn(t, dir, 5)
	dirty := copyImage(t, image)
	run(t, "umount", dir)
	m, err := Find(t.Context(), openImage(t, dirty))
	if err != nil || m.FreeBytes != 0 || !strings.Contains(m.Volumes[0].Reason, "not unmounted") {
		t.Errorf("%+v, %v", m.Volumes, err)
	}
	find(t, image, "xfs") // when it has been written to for a while and unmounted
}
