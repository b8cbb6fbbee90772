// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// makeNTFS makes a file system, fills it by ntfs-3g and removes some files.
func makeNTFS(t *testing.T, seed uint64, size int64, args ...string) (image, tree string) {
	t.Helper()
	tree, remove := randomTree(t, seed)
	image = filepath.Join(t.TempDir(), "ntfs.img")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ntfs", append(append([]string{"-q", "-F"}, args...), image)...)
	dir := t.TempDir()
	mountNTFS(t, image, dir)
	run(t, "cp", "-r", tree+"/.", dir)
	for _, name := range remove {
		if err := errors.Join(os.Remove(filepath.Join(dir, name)), os.Remove(filepath.Join(tree, name))); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "umount", dir)
	return image, tree
}

func mountNTFS(t *testing.T, image, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if out, err := exec.CommandContext(t.Context(), "ntfs-3g", image, dir).CombinedOutput(); err != nil {
		t.Skipf("ntfs-3g cannot mount here: %v: %s", err, out)
	}
}

var ntfsFree = regexp.MustCompile(`(?m)Free Clusters: (\d+)|Cluster Size: (\d+)`)

// TestNTFS compares what is free with what ntfsinfo counts, and has ntfs-3g read an image
// whose free space has been zeroed.
func TestNTFS(t *testing.T) {
	for i, x := range []struct {
		name string
		size int64
		args []string
	}{
		{"4k", 200 << 20, nil},
		{"512", 60 << 20, []string{"-c", "512"}},
		{"64k", 300 << 20, []string{"-c", "65536"}},
		{"4k sectors", 200 << 20, []string{"-s", "4096"}},
		{"odd", 100<<20 + 12345*512, nil},
	} {
		t.Run(x.name, func(t *testing.T) {
			image, tree := makeNTFS(t, uint64(100+i), x.size, x.args...)
			m := find(t, image, "ntfs")
			out := run(t, "ntfsinfo", "-m", image)
			want := int64(1)
			for _, g := range ntfsFree.FindAllStringSubmatch(out, -1) {
				n, err := strconv.ParseInt(g[1]+g[2], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				want *= n
			}
			if m.FreeBytes != want {
				t.Errorf("%d bytes are free, ntfsinfo says %d: %s", m.FreeBytes, want, out)
			}
			zero := zeroed(t, m, image)
			run(t, "ntfsfix", "-n", zero)
			dir := t.TempDir()
			mountNTFS(t, zero, dir)
			defer run(t, "umount", dir)
			run(t, "diff", "-r", "-x", "$*", "-x", "System Volume Information", tree, dir)
		})
	}
}

// TestNTFSRefused has volumes that must be taken whole.
func TestNTFSRefused(t *testing.T) {
	image, _ := makeNTFS(t, 7, 60<<20)
	whole, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	v := &volume{ctx: t.Context(), im: memory(whole), area: fullArea(int64(len(whole)))}
	f := &ntfsFS{v: v}
	if err := f.boot(); err != nil {
		t.Fatal(err)
	}
	mft := int(f.mft[0].lcn) * int(f.cluster)
	for name, c := range map[string]struct {
		change func(b []byte)
		says   string
	}{
		"dirty":         {func(b []byte) { flag(t, b, mft+3*int(f.record), 1) }, "marked as dirty"},
		"being checked": {func(b []byte) { flag(t, b, mft+3*int(f.record), 0x4000) }, "work to be done"},
		"shadow copies": {func(b []byte) {
			copy(b[0x1E00:], "\x6B\x87\x08\x38\x76\xC1\x48\x4E\xB7\xAE\x04\x04\x6E\x6C\xC7\x52")
			b[0x1E30] = 1
		}, "shadow copies"},
		"torn record":    {func(b []byte) { b[mft+6*int(f.record)+510]++ }, "not written whole"},
		"no such record": {func(b []byte) { b[mft+6*int(f.record)+0x16] = 0 }, "not in use"},
		"too long":       {func(b []byte) { le.PutUint64(b[0x28:], 1<<40) }, "do not fit"},
		"two signatures": {func(b []byte) { copy(b[1024+0x38:], "\x53\xEF") }, "signatures of ext and ntfs"},
	} {
		b := append([]byte{}, whole...)
		c.change(b)
		m, err := Find(t.Context(), memory(b))
		if err != nil {
			t.Fatal(err)
		}
		if m.FreeBytes != 0 || len(m.Volumes) != 1 || !strings.Contains(m.Volumes[0].Reason, c.says) {
			t.Errorf("%s: %+v", name, m.Volumes)
		}
	}
	// Mounted, and files of a system that sleeps.
	dir := t.TempDir()
	mountNTFS(t, image, dir)
	if err := os.WriteFile(filepath.Join(dir, "HIBERFIL.SYS"), append([]byte("HIBR"), make([]byte, 8192)...), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "umount", dir)
	m, err := Find(t.Context(), openImage(t, image))
	if err != nil || m.FreeBytes != 0 || !strings.Contains(m.Volumes[0].Reason, "hibernated") {
		t.Errorf("hibernated: %+v, %v", m.Volumes, err)
	}
}

func fullArea(size int64) area { return whole("", 0, size) }

// flag sets flags of the volume in its record.
func flag(t *testing.T, b []byte, record int, flags uint16) {
	t.Helper()
	f := &ntfsFS{}
	a, err := f.attribute(b[record:record+1024], ntfsVolumeInformation)
	if err != nil || a == nil {
		t.Fatal(err)
	}
	v, err := resident(a)
	if err != nil {
		t.Fatal(err)
	}
	le.PutUint16(v[10:], flags)
}
