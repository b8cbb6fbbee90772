// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io/fs"
	"os/exec"
	"path/filepath"
)

// Limits of memory, in MiB, of any operation.
const (
	defaultRSS = 320
	smallRSS   = 96
)

// consumer takes the stream as the next program in a user's pipe would.
var consumer = []string{"cat"}

// plan is a row that has not been prepared yet: that may take making a stream.
type plan struct {
	name  string
	build func(ctx context.Context) (row, error)
}

// plans returns everything that can be measured.
func (b *bench) plans() []plan {
	ready := func(build func() row) func(context.Context) (row, error) {
		return func(context.Context) (row, error) { return build(), nil }
	}
	small := memoryFlags{
		backup: []string{"--extent-size", "8M", "--memory", "64M"}, read: []string{"--memory", "64M"}, maxMiB: smallRSS,
	}
	return []plan{
		{"backup-plain", ready(b.backupPlain)},
		{"backup-zstd", ready(b.backupZstd)},
		{"backup-lz4", ready(b.backupLZ4)},
		{"plugin-plain", ready(b.pluginPlain)},
		{"plugin-read", b.pluginRead},
		{"plugin-start", ready(b.pluginStart)},
		{"backup-s3", b.s3},
		{"restore-raw", b.restore},
		{"verify", b.verify},
		{"sparse-1TiB", b.sparseDisk},
		{"vmfs", b.vmfs},
		{"vmfs-backup", b.vmfsBackup},
		{"skip-free", b.skipFree},
		{"redo-commit", b.redoCommit},
		{"increment", b.increment},
		{"increment-kept", b.incrementKept},
		{"merge", func(ctx context.Context) (row, error) { return b.merge(ctx, everywhere) }},
		{"merge-kept", b.mergeKept},
		{"merge-tenth", func(ctx context.Context) (row, error) { return b.merge(ctx, inTenth) }},
		{"memory-default", func(ctx context.Context) (row, error) {
			return b.memory(ctx, "peak memory, default options", memoryFlags{maxMiB: defaultRSS})
		}},
		{"memory-small", func(ctx context.Context) (row, error) {
			return b.memory(ctx, "peak memory, `--extent-size 8M --memory 64M`", small)
		}},
	}
}

// cmd returns a command line of the measured program.
func (b *bench) cmd(args ...string) []string {
	return append([]string{b.vmstream, "-q"}, args...)
}

// backup returns a backup of a disk into a pipe.
func (b *bench) backup(disk string, flags ...string) cand {
	args := append(append([]string{"backup"}, flags...), disk)
	return cand{pipe: pipe(b.cmd(args...), consumer), count: true, limits: []limit{{rssMiB, defaultRSS}}}
}

func (b *bench) backupPlain() row {
	cat := cand{
		pipe: pipe([]string{"cat", b.disk}, consumer), count: true,
		limits: []limit{{wallRatio, 1}, {cpuRatio, 1.5}},
	}
	dir, base := filepath.Dir(b.disk), filepath.Base(b.disk)
	tar := cand{
		pipe: pipe([]string{"tar", "-C", dir, "-cSf", "-", base}, consumer), count: true, needs: []string{"tar"},
		limits: []limit{{wallRatio, 1.0 / 6}},
	}
	bsdtar := cand{
		pipe: pipe([]string{"bsdtar", "-C", dir, "-cf", "-", base}, consumer), count: true, needs: []string{"bsdtar"},
	}
	return row{
		title: "backup, not compressed, to a pipe", warm: []string{b.disk},
		cands: []cand{b.backup(b.disk), cat, tar, bsdtar, b.nbdcopy()},
	}
}

// nbdcopy reads from whichever NBD server is installed.
func (b *bench) nbdcopy() cand {
	server := []string{"nbdkit", "--exit-with-parent", "file", b.disk}
	if _, err := exec.LookPath("nbdkit"); err != nil {
		server = []string{"qemu-nbd", "-r", "-f", "raw", b.disk}
	}
	argv := append([]string{"nbdcopy", "--", "["}, server...)
	return cand{
		pipe: pipe(append(argv, "]", "-"), consumer), count: true,
		needs: []string{"nbdcopy", server[0]},
	}
}

func (b *bench) backupZstd() row {
	dir, base := filepath.Dir(b.disk), filepath.Base(b.disk)
	bsdtar := cand{
		pipe:  pipe([]string{"bsdtar", "-C", dir, "-cf", "-", base}, []string{"zstd", "-q", "-1", "-T2"}, consumer),
		needs: []string{"bsdtar", "zstd"}, count: true,
		limits: []limit{{wallRatio, 1}, {sizeRatio, 1.02}},
	}
	return row{
		title: "backup, zstd level 1", warm: []string{b.disk},
		cands: []cand{b.backup(b.disk, "--codec", "zstd", "--level", "1"), bsdtar, b.restic(), b.borg()},
	}
}

// restic and borg write into a repository that is made for every run, so that
// they find nothing that is there already.
func (b *bench) restic() cand {
	env := []string{"RESTIC_PASSWORD=bench", "RESTIC_REPOSITORY=" + b.path("restic")}
	p := pipe([]string{"restic", "--no-cache", "-q", "backup", b.disk})
	p.env = env
	return cand{
		pipe: p, needs: []string{"restic"}, once: true, size: b.sizeOf("restic"),
		before: b.newRepository("restic", env, "restic", "--no-cache", "-q", "init"),
	}
}

func (b *bench) borg() cand {
	env := []string{"BORG_REPO=" + b.path("borg"), "BORG_BASE_DIR=" + b.path("borg-home")}
	p := pipe([]string{"borg", "create", "--compression", "zstd,1", "::bench", b.disk})
	p.env = env
	return cand{
		pipe: p, needs: []string{"borg"}, once: true, size: b.sizeOf("borg"),
		before: b.newRepository("borg", env, "borg", "init", "-e", "none"),
	}
}

func (b *bench) newRepository(dir string, env []string, argv ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := b.fresh(dir, dir+"-home")(ctx); err != nil {
			return err
		}
		p := pipe(argv)
		p.env = env
		_, err := p.run(ctx, false)
		return err
	}
}

// sizeOf returns a function that sums up the files below a directory.
func (b *bench) sizeOf(dir string) func() (int64, error) {
	return func() (int64, error) {
		var n int64
		err := filepath.WalkDir(b.path(dir), func(_ string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			fi, err := d.Info()
			if err == nil {
				n += fi.Size()
			}
			return err
		})
		return n, err
	}
}

func (b *bench) backupLZ4() row {
	lz4 := cand{
		pipe:  pipe([]string{"cat", b.disk}, []string{"lz4", "-q", "-1"}, consumer),
		needs: []string{"lz4"}, count: true, limits: []limit{{wallRatio, 0.8}},
	}
	return row{
		title: "backup, lz4", warm: []string{b.disk},
		cands: []cand{b.backup(b.disk, "--codec", "lz4"), lz4},
	}
}
