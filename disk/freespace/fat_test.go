// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// makeFAT makes a file system, fills it by mtools and removes some files.
func makeFAT(t *testing.T, seed uint64, size int64, args ...string) (image, tree string) {
	t.Helper()
	tree, remove := randomTree(t, seed)
	image = filepath.Join(t.TempDir(), "fat.img")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.fat", append(args, image)...)
	dirs, err := filepath.Glob(filepath.Join(tree, "*"))
	if err != nil {
		t.Fatal(err)
	}
	run(t, "mcopy", append(append([]string{"-i", image, "-s"}, dirs...), "::")...)
	names := []string{"-i", image}
	for _, name := range remove {
		names = append(names, "::"+name)
		if err := os.Remove(filepath.Join(tree, name)); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "mdel", names...)
	return image, tree
}

var fatUsed = regexp.MustCompile(`files, (\d+)/(\d+) clusters`)

// TestFAT compares what is free with what fsck.fat counts, and reads the files of an image
// whose free space has been zeroed.
func TestFAT(t *testing.T) {
	for i, x := range []struct {
		kind string
		size int64
		args []string
	}{
		{"fat12", 31 << 20, []string{"-F", "12"}},
		{"fat16", 100 << 20, []string{"-F", "16"}},
		{"fat16", 200 << 20, []string{"-F", "16", "-f", "1"}},
		{"fat32", 300 << 20, []string{"-F", "32", "-s", "8"}},
		{"fat32", 200 << 20, []string{"-F", "32", "-s", "1"}},
	} {
		t.Run(fmt.Sprint(x.kind, " ", i), func(t *testing.T) {
			t.Parallel()
			image, tree := makeFAT(t, uint64(200+i), x.size, x.args...)
			m := find(t, image, x.kind)
			out := run(t, "fsck.fat", "-n", "-v", image)
			g := fatUsed.FindStringSubmatch(out)
			if g == nil {
				t.Fatal(out)
			}
			used, _ := strconv.ParseInt(g[1], 10, 64)
			all, _ := strconv.ParseInt(g[2], 10, 64)
			per, err := strconv.ParseInt(regexp.MustCompile(`(\d+) bytes per cluster`).FindStringSubmatch(out)[1], 10, 64)
			if err != nil || m.FreeBytes != (all-used)*per {
				t.Errorf("%d bytes are free, fsck.fat says %d", m.FreeBytes, (all-used)*per)
			}
			zero := zeroed(t, m, image)
			run(t, "fsck.fat", "-n", zero)
			back := t.TempDir()
			run(t, "mcopy", "-i", zero, "-s", "-n", "::*", back)
			run(t, "diff", "-r", tree, back)
		})
	}
}

// TestFATRefused has file systems that must be taken whole.
func TestFATRefused(t *testing.T) {
	image, _ := makeFAT(t, 300, 100<<20, "-F", "32", "-s", "1")
	whole, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	fat := int(le.Uint16(whole[14:])) * 512
	for name, c := range map[string]struct {
		change func(b []byte)
		says   string
	}{
		"dirty":       {func(b []byte) { b[65] |= 1 }, "not unmounted"},
		"dirty too":   {func(b []byte) { b[fat+7] &^= 8; b[fat+int(le.Uint32(b[36:]))*512+7] &^= 8 }, "not unmounted"},
		"tables":      {func(b []byte) { b[fat+100]++ }, "differ"},
		"too long":    {func(b []byte) { le.PutUint32(b[32:], 1<<30) }, "do not fit"},
		"table short": {func(b []byte) { le.PutUint32(b[36:], 1) }, ""},
		"no clusters": {func(b []byte) { b[13] = 0 }, "contradicts"},
	} {
		b := append([]byte{}, whole...)
		c.change(b)
		m, err := Find(t.Context(), memory(b))
		if err != nil {
			t.Fatal(err)
		}
		if m.FreeBytes != 0 || len(m.Volumes) != 1 || m.Volumes[0].Reason == "" || !strings.Contains(m.Volumes[0].Reason, c.says) {
			t.Errorf("%s: %+v", name, m.Volumes)
		}
	}
}
