// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
)

// A disk on a VMFS volume is read at this share of the speed of a file with the same
// bytes, and so many times as fast as vmfs-tools read it.
const (
	vmfsShare     = 0.9
	vmfsFuseTimes = 3
)

// volume makes a VMFS volume with the disk, all of whose blocks are allocated.
func (b *bench) volume(ctx context.Context) (image string, err error) {
	image = b.path("volume.img")
	f, err := os.Create(image)
	if err != nil {
		return "", err
	}
	if err := f.Truncate(b.diskBytes + 1<<30); err != nil {
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	for _, args := range [][]string{
		{"vmfs", "mkfs", "--force", "--label", "bench", image},
		{"vmfs", "cp", "--disk-format", "eagerzeroedthick", b.disk, image + "!/disk-flat.vmdk"},
	} {
		if _, err := pipe(b.cmd(args...)).run(ctx, false); err != nil {
			return "", err
		}
	}
	return image, nil
}

// vmfs measures reading a thick disk from a VMFS volume, beside a file with the same
// bytes and vmfs-fuse.
func (b *bench) vmfs(ctx context.Context) (row, error) {
	image, err := b.volume(ctx)
	if err != nil {
		return row{}, err
	}
	const disk = "!/disk-flat.vmdk"
	if err := os.MkdirAll(b.path("mnt"), 0o700); err != nil {
		return row{}, err
	}
	raw := cand{pipe: pipe([]string{"cat", b.disk}, consumer), count: true, limits: []limit{{wallRatio, 1 / vmfsShare}}}
	fuse := cand{
		title: "vmfs-fuse volume.img mnt && cat mnt/disk-flat.vmdk",
		pipe:  pipe([]string{"sh", "-ec", fmt.Sprintf("vmfs-fuse %s %s; trap 'umount %[2]s' EXIT; cat %[2]s/disk-flat.vmdk", image, b.path("mnt"))}, consumer),
		count: true, needs: []string{"vmfs-fuse", "umount"}, limits: []limit{{wallRatio, 1.0 / vmfsFuseTimes}},
	}
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Geteuid() != 0 {
		fuse.needs = append(fuse.needs, "/dev/fuse and root")
	}
	return row{
		title: "read a disk of " + fmt.Sprint(b.diskBytes>>20) + " MiB, all allocated, from a VMFS volume", warm: []string{b.disk, image},
		cands: []cand{{pipe: pipe(b.cmd("vmfs", "cat", image+disk), consumer), count: true}, raw, fuse},
	}, nil
}

// vmfsBackup measures the backup of that disk, beside one of a file.
func (b *bench) vmfsBackup(ctx context.Context) (row, error) {
	image, err := b.volume(ctx)
	if err != nil {
		return row{}, err
	}
	ours := cand{
		pipe:  pipe(b.cmd("backup", "--source-format", "raw", "--name", "disk", "vmfs:"+image+"!/disk-flat.vmdk"), consumer),
		count: true, limits: []limit{{rssMiB, defaultRSS}},
	}
	file := b.backup(b.disk, "--source-format", "raw", "--name", "disk")
	file.limits = []limit{{wallRatio, 1 / vmfsShare}}
	return row{title: "backup of that disk", warm: []string{b.disk, image}, cands: []cand{ours, file}}, nil
}
