// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
)

// pluginPlain compares a sink, which has a process of its own, with what writes the
// same file behind stdout: the same data through one pipe to another process.
func (b *bench) pluginPlain() row {
	sink := cand{
		title: "vmstream -q backup --to file:sink.tar disk.raw",
		pipe:  pipe(b.cmd("backup", "--to", "file:"+b.path("sink.tar"), "--overwrite", b.disk)), size: b.sizeOf("sink.tar"),
		before: b.fresh("sink.tar"), limits: []limit{{rssMiB, defaultRSS}},
	}
	file := b.path("cat.tar")
	stdout := cand{
		title: "vmstream -q backup disk.raw | cat > cat.tar; sync cat.tar",
		pipe:  shell(b.vmstream + " -q backup '" + b.disk + "' | cat > '" + file + "'; sync '" + file + "'"), size: b.sizeOf("cat.tar"),
		before: b.fresh("cat.tar"), limits: []limit{{wallRatio, 1 / 0.9}},
	}
	return row{title: "backup, not compressed, to a file by its sink", warm: []string{b.disk}, cands: []cand{sink, stdout}}
}

// pluginRead compares reading from a sink with reading the same stream from stdin.
func (b *bench) pluginRead(ctx context.Context) (row, error) {
	m, err := b.stream(ctx, b.disk)
	if err != nil {
		return row{}, err
	}
	sink := cand{title: "vmstream -q verify --from file:x.tar", pipe: pipe(b.cmd("verify", "--from", "file:"+m.file))}
	stdin := cand{pipe: pipe([]string{"cat", m.file}, b.cmd("verify"))}
	return row{title: "verify what a sink has", warm: []string{m.file}, cands: []cand{sink, stdin}}, nil
}

// pluginStart measures what the process of a sink adds to a backup of nothing.
func (b *bench) pluginStart() row {
	tiny := b.path("tiny.raw")
	before := func(ctx context.Context) error {
		if err := b.fresh("tiny.tar")(ctx); err != nil {
			return err
		}
		return os.WriteFile(tiny, make([]byte, 1<<20), 0o600)
	}
	const times = 10 // in a row: one takes too little
	loop := func(to string) pipeline {
		return shell(fmt.Sprintf("for i in $(seq %d); do %s -q backup %s '%s'; done >/dev/null", times, b.vmstream, to, tiny))
	}
	sink := cand{
		title: fmt.Sprintf("%d × vmstream -q backup --to file:tiny.tar tiny.raw", times),
		pipe:  loop("--overwrite --to 'file:" + b.path("tiny.tar") + "'"), before: before, limits: []limit{{wallSeconds, 1}},
	}
	stdout := cand{
		title: fmt.Sprintf("%d × vmstream -q backup tiny.raw > /dev/null", times),
		pipe:  loop(""), before: before,
	}
	return row{title: "start of a sink", cands: []cand{sink, stdout}}
}
