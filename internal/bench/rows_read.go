// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"os"
	"runtime"
	"sync"
	"time"
)

// toFile returns a restore of a stream's disk into a file that is compared
// with the disk after the first run.
func (b *bench) toFile(stream, disk string, flags ...string) cand {
	args := append([]string{"restore", "--disk", "disk", "--to", b.path("out.raw")}, flags...)
	return cand{
		pipe: pipe(b.cmd(args...)).from(stream), before: b.fresh("out.raw"),
		check: b.same("out.raw", disk), limits: []limit{{rssMiB, defaultRSS}},
	}
}

func (b *bench) restore(ctx context.Context) (row, error) {
	m, err := b.stream(ctx, b.disk)
	if err != nil {
		return row{}, err
	}
	stream := m.file
	const (
		extract = "tar -xf ../stream.tar && cd disk && sha256sum -c --quiet SHA256SUMS"
		convert = "qemu-img convert -f vmdk -O raw disk.vmdk ../../out.raw"
	)
	link := func(context.Context) error { return os.Symlink(stream, b.path("stream.tar")) }
	empty := func(ctx context.Context) error {
		if err := b.fresh("out.raw", "stock", "stream.tar")(ctx); err != nil {
			return err
		}
		if err := link(ctx); err != nil {
			return err
		}
		return os.Mkdir(b.path("stock"), 0o700)
	}
	stock := func(command string, needs ...string) cand {
		return cand{pipe: shell(command).in(b.path("stock")), needs: needs, before: empty}
	}
	whole := stock(extract+" && "+convert, "tar", "sha256sum", "qemu-img")
	whole.limits, whole.check = []limit{{wallRatio, 0.7}}, b.same("out.raw", b.disk)
	durable := stock(extract+" && "+convert+" && sync ../../out.raw", whole.needs...)
	tar := stock("tar -xf ../stream.tar", "tar")
	// It stands behind tar: what it converts is what tar has extracted.
	qemu := cand{
		pipe:  shell(convert).in(b.path("stock/disk")),
		needs: whole.needs, before: b.fresh("out.raw"),
	}
	return row{
		title: "restore to a raw file, all digests checked", warm: []string{stream},
		cands: []cand{b.toFile(stream, b.disk), whole, durable, tar, qemu},
	}, nil
}

// verifyShare is how much of the speed at which two cores compute SHA-256 has
// to be left for checking a stream.
const verifyShare = 0.8

func (b *bench) verify(ctx context.Context) (row, error) {
	m, err := b.stream(ctx, b.disk)
	if err != nil {
		return row{}, err
	}
	stream, sizeBytes := m.file, m.usage.OutBytes
	ours := cand{pipe: pipe(b.cmd("verify")).from(stream), limits: []limit{{rssMiB, defaultRSS}}}
	perCore := cand{
		title:  "SHA-256 of as many bytes in Go, speed of one core × 2",
		limits: []limit{{wallRatio, 1 / verifyShare}},
		measure: func(context.Context) (usage, error) {
			t := hashTime(sizeBytes, 1)
			return usage{Wall: t / 2, CPU: t}, nil
		},
	}
	together := cand{
		title: "the same, two cores at a time",
		measure: func(context.Context) (usage, error) {
			n := min(2, runtime.NumCPU())
			t := hashTime(sizeBytes/int64(n), n)
			return usage{Wall: t, CPU: t * time.Duration(n)}, nil
		},
	}
	tool := cand{pipe: pipe([]string{"sha256sum"}).from(stream), needs: []string{"sha256sum"}}
	return row{
		title: "verify", warm: []string{stream}, cands: []cand{ours, perCore, together, tool},
	}, nil
}

// hashTime returns how long SHA-256 takes for n bytes in each of some
// goroutines. The bytes stay in the cache.
func hashTime(n int64, goroutines int) time.Duration {
	var wg sync.WaitGroup
	start := time.Now()
	for range goroutines {
		wg.Go(func() {
			b := make([]byte, 1<<20)
			h := sha256.New()
			for left := n; left > 0; left -= int64(len(b)) {
				h.Write(b[:min(left, int64(len(b)))])
			}
			h.Sum(nil)
		})
	}
	wg.Wait()
	return time.Since(start)
}

func (b *bench) sparseDisk(context.Context) (row, error) {
	disk, err := makeSparse(b.dir)
	if err != nil {
		return row{}, err
	}
	ours := b.backup(disk)
	ours.limits = append(ours.limits, limit{wallSeconds, 3})
	qemu := cand{
		pipe:  pipe([]string{"qemu-img", "convert", "-f", "raw", "-O", "raw", disk, b.path("out.raw")}),
		needs: []string{"qemu-img"}, before: b.fresh("out.raw"),
	}
	return row{title: "backup of a sparse disk, 1 TiB with 64 MiB of data", cands: []cand{ours, qemu}}, nil
}

// memoryFlags are the flags of a row about memory, and its limit.
type memoryFlags struct {
	backup, read []string
	maxMiB       float64
}

// memory runs every operation with every codec once.
func (b *bench) memory(ctx context.Context, title string, f memoryFlags) (row, error) {
	r := row{title: title, once: true}
	small, err := makeDisk(b.dir, xzDiskBytes)
	if err != nil {
		return r, err
	}
	add := func(c cand) {
		c.limits = []limit{{rssMiB, f.maxMiB}}
		r.cands = append(r.cands, c)
	}
	for _, codec := range []string{"none", "zstd", "lz4", "xz"} {
		disk := b.disk
		if codec == "xz" {
			disk = small
		}
		m, err := b.stream(ctx, disk, append([]string{"--codec", codec}, f.backup...)...)
		if err != nil {
			return r, err
		}
		add(cand{title: m.command, measure: func(context.Context) (usage, error) { return m.usage, nil }})
		add(b.toFile(m.file, disk, f.read...))
		add(cand{pipe: pipe(b.cmd(append([]string{"verify"}, f.read...)...)).from(m.file)})
		add(cand{pipe: pipe(b.cmd(append([]string{"inspect"}, f.read...)...)).from(m.file)})
	}
	return r, nil
}
