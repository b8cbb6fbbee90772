// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

func run(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := exec.CommandContext(tb.Context(), testenv.Tool(tb, name), args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// randomTree makes files of all sizes, and returns the names of some that are to be removed.
func randomTree(tb testing.TB, seed uint64) (dir string, remove []string) {
	tb.Helper()
	dir = filepath.Join(tb.TempDir(), "tree")
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range 300 {
		name := fmt.Sprintf("d%d/f%03d", i%7, i)
		size := r.IntN(40_000)
		if i%20 == 0 {
			size = r.IntN(3_000_000)
		}
		b := make([]byte, size)
		for k := range b {
			b[k] = byte(r.Uint32())
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			tb.Fatal(err)
		}
		if r.IntN(3) == 0 {
			remove = append(remove, name)
		}
	}
	return dir, remove
}

// makeExt makes a file system with files, of which some have been removed again.
func makeExt(tb testing.TB, seed uint64, size string, args ...string) (image, tree string) {
	tb.Helper()
	tree, remove := randomTree(tb, seed)
	image = filepath.Join(tb.TempDir(), "ext.img")
	if f, err := os.Create(image); err != nil {
		tb.Fatal(err)
	} else if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
	run(tb, "mke2fs", append(append([]string{"-q", "-F", "-d", tree}, args...), image, size)...)
	var commands bytes.Buffer
	for _, name := range remove {
		fmt.Fprintf(&commands, "rm %s\n", name)
		if err := os.Remove(filepath.Join(tree, name)); err != nil {
			tb.Fatal(err)
		}
	}
	script := filepath.Join(tb.TempDir(), "script")
	if err := os.WriteFile(script, commands.Bytes(), 0o600); err != nil {
		tb.Fatal(err)
	}
	run(tb, "debugfs", "-w", "-f", script, image)
	return image, tree
}

var (
	clusterLine   = regexp.MustCompile(`(?m)^Cluster size:\s+(\d+)`)
	blockSizeLine = regexp.MustCompile(`(?m)^Block size:\s+(\d+)`)
	freeLine      = regexp.MustCompile(`(?m)^  Free blocks: (.*)$`)
	countLine     = regexp.MustCompile(`(?m)^Block count:\s+(\d+)`)
)

// dumped returns what dumpe2fs says is free.
func dumped(tb testing.TB, image string) (free []span, used int64) {
	tb.Helper()
	out := run(tb, "dumpe2fs", image)
	number := func(re *regexp.Regexp) int64 {
		n, err := strconv.ParseInt(re.FindStringSubmatch(out)[1], 10, 64)
		if err != nil {
			tb.Fatal(err)
		}
		return n
	}
	bs := number(blockSizeLine)
	cluster := bs
	if clusterLine.MatchString(out) { // a range ends with the first block of a cluster
		cluster = number(clusterLine)
	}
	end := number(countLine) * bs
	var s spanSet
	for _, m := range freeLine.FindAllStringSubmatch(out, -1) {
		for part := range strings.SplitSeq(m[1], ",") {
			part = strings.TrimSpace(part)
			if part == "" {
				continue
			}
			a, b, ranged := strings.Cut(part, "-")
			from, err := strconv.ParseInt(a, 10, 64)
			last := from
			if ranged && err == nil {
				last, err = strconv.ParseInt(b, 10, 64)
			}
			if err != nil {
				tb.Fatal(err)
			}
			s.add(from*bs, min(last*bs+cluster, end)-from*bs)
		}
	}
	free = s.done()
	return free, number(countLine)*bs - total(free)
}

func openImage(tb testing.TB, path string) disk.Image {
	tb.Helper()
	im, err := disk.OpenRaw(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = im.Close() })
	return im
}

// find maps an image that has one file system, and fails if it is refused.
func find(tb testing.TB, path, kind string) *Map {
	tb.Helper()
	m, err := Find(tb.Context(), openImage(tb, path))
	if err != nil {
		tb.Fatal(err)
	}
	if len(m.Volumes) != 1 || m.Volumes[0].Reason != "" || m.Volumes[0].Kind != kind {
		tb.Fatalf("%+v", m.Volumes)
	}
	return m
}

// zeroed writes a copy of an image with zeros where it is free.
func zeroed(tb testing.TB, m *Map, path string) string {
	tb.Helper()
	im := m.Image(openImage(tb, path))
	out := filepath.Join(tb.TempDir(), "zeroed.img")
	f, err := os.Create(out)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for r, err := range im.Runs(0, im.Size()) {
		if err != nil {
			tb.Fatal(err)
		}
		for off := r.Offset; off < r.End() && r.Kind == disk.Data; off += int64(len(buf)) {
			b := buf[:min(int64(len(buf)), r.End()-off)]
			if err := disk.ReadFull(im, b, off); err != nil {
				tb.Fatal(err)
			}
			if _, err := f.WriteAt(b, off); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if err := f.Truncate(im.Size()); err != nil {
		tb.Fatal(err)
	}
	return out
}

// extKinds are file systems with features of all sorts.
var extKinds = []struct {
	name, kind, size string
	args             []string
}{
	{"ext2 1k", "ext2", "40M", []string{"-t", "ext2", "-b", "1024"}},
	{"ext2 4k", "ext2", "300M", []string{"-t", "ext2", "-b", "4096"}},
	{"ext2 first revision", "ext2", "40M", []string{"-t", "ext2", "-r", "0", "-b", "1024"}},
	{"ext3 2k", "ext3", "200M", []string{"-t", "ext3", "-b", "2048"}},
	{"ext4", "ext4", "500M", []string{"-t", "ext4"}},
	{"ext4 1k", "ext4", "300M", []string{"-t", "ext4", "-b", "1024"}},
	{"ext4 64bit", "ext4", "300M", []string{"-t", "ext4", "-O", "64bit,metadata_csum"}},
	{"ext4 32 bits", "ext4", "300M", []string{"-t", "ext4", "-O", "^64bit,metadata_csum"}},
	{"ext4 group sums", "ext4", "300M", []string{"-t", "ext4", "-O", "^metadata_csum,uninit_bg"}},
	{"ext4 no sums", "ext4", "300M", []string{"-t", "ext4", "-O", "^metadata_csum,^uninit_bg"}},
	{"ext4 meta_bg", "ext4", "300M", []string{"-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"}},
	{"ext4 bigalloc", "ext4", "500M", []string{"-t", "ext4", "-O", "bigalloc", "-C", "65536"}},
	{"ext4 sparse_super2", "ext4", "300M", []string{"-t", "ext4", "-O", "sparse_super2,^resize_inode"}},
	{"ext4 no flex_bg", "ext4", "300M", []string{"-t", "ext4", "-O", "^flex_bg"}},
	{"ext4 no journal", "ext4", "300M", []string{"-t", "ext4", "-O", "^has_journal"}},
	{"ext4 inline", "ext4", "300M", []string{"-t", "ext4", "-O", "inline_data", "-I", "256"}},
	{"ext4 seed", "ext4", "300M", []string{"-t", "ext4", "-O", "metadata_csum,metadata_csum_seed"}},
	{"ext4 odd end", "ext4", "277777k", []string{"-t", "ext4", "-b", "1024"}},
	{"ext4 lazy", "ext4", "4G", []string{"-t", "ext4", "-E", "lazy_itable_init=1"}},
}

// TestExt compares what is free with what dumpe2fs says, and has e2fsck and debugfs look
// at an image whose free space has been zeroed.
func TestExt(t *testing.T) {
	for i, x := range extKinds {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			image, tree := makeExt(t, uint64(i), x.size, x.args...)
			m := find(t, image, x.kind)
			want, used := dumped(t, image)
			if len(without(m.spans, want)) > 0 {
				t.Errorf("what is used is taken for free: %v", without(m.spans, want)[0])
			}
			if stored := openImage(t, image).Size() - m.FreeBytes; float64(stored) > 1.03*float64(used)+4096 {
				t.Errorf("%d bytes are taken for used, %d are; left out: %v", stored, used, without(want, m.spans))
			}
			out := zeroed(t, m, image)
			run(t, "e2fsck", "-fn", out)
			back := t.TempDir()
			run(t, "debugfs", "-R", "rdump / "+back, out)
			if x.name == "ext4 inline" { // debugfs does not read these as mke2fs writes them
				tree = t.TempDir()
				run(t, "debugfs", "-R", "rdump / "+tree, image)
			}
			run(t, "diff", "-r", "-x", "lost+found", tree, back)
		})
	}
}
