// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// ext4 makes a file system on a disk that has been full before: files of all sizes take a
// quarter of it, and half of them have been removed again.
func (b *bench) ext4(ctx context.Context) (image string, err error) {
	image, tree := b.path("ext4.img"), b.path("tree")
	r := rand.New(rand.NewPCG(7, 7))
	var remove strings.Builder
	junk := make([]byte, 1<<20)
	for k := range junk {
		junk[k] = byte(r.Uint32())
	}
	for i, left := 0, b.diskBytes/4; left > 0; i++ {
		size := int64(r.IntN(60_000))
		if i%16 == 0 {
			size = int64(r.IntN(8 << 20))
		}
		name := fmt.Sprintf("d%d/f%d", i%50, i)
		junk[i%len(junk)]++ // no two files are alike
		if err := writeRepeated(filepath.Join(tree, name), junk, size); err != nil {
			return "", err
		}
		if i%2 == 0 {
			fmt.Fprintf(&remove, "rm %s\n", name)
		}
		left -= size
	}
	script := b.path("remove")
	if err := os.WriteFile(script, []byte(remove.String()), 0o600); err != nil {
		return "", err
	}
	f, err := os.Create(image)
	if err != nil {
		return "", err
	}
	if err := errors.Join(f.Truncate(b.diskBytes), f.Close()); err != nil {
		return "", err
	}
	for _, argv := range [][]string{
		{"mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, image}, {"debugfs", "-w", "-f", script, image},
	} {
		if _, err := pipe(argv).run(ctx, false); err != nil {
			return "", err
		}
	}
	return image, os.RemoveAll(tree)
}

// writeRepeated writes a file of size bytes that are those of b again and again.
func writeRepeated(path string, b []byte, size int64) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for size > 0 && err == nil {
		n := min(size, int64(len(b)))
		_, err = f.Write(b[:n])
		size -= n
	}
	return errors.Join(err, f.Close())
}

// skipFree measures a backup without the free space of a file system, beside partclone.
func (b *bench) skipFree(ctx context.Context) (row, error) {
	if (&cand{needs: []string{"mke2fs", "debugfs"}}).missing() != "" {
		return row{}, errNoTool
	}
	image, err := b.ext4(ctx)
	if err != nil {
		return row{}, err
	}
	ours := b.backup(image, "--skip-free", "--source-format", "raw", "--name", "disk")
	whole := b.backup(image, "--source-format", "raw", "--name", "disk")
	partclone := cand{
		pipe:  pipe([]string{"partclone.extfs", "-c", "-q", "-s", image, "-o", "-", "-L", "/dev/null"}, consumer),
		count: true, needs: []string{"partclone.extfs"}, limits: []limit{{wallRatio, 1}, {sizeRatio, 1.03}},
	}
	return row{
		title: fmt.Sprintf("backup of an ext4 file system of %d MiB without its free space", b.diskBytes>>20), warm: []string{image},
		cands: []cand{ours, partclone, whole},
	}, nil
}
