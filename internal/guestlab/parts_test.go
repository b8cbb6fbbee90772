// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package guestlab

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/testenv"
)

// TestInitramfs has another program read what cpioWriter writes.
func TestInitramfs(t *testing.T) {
	bsdtar := testenv.Tool(t, "bsdtar")
	var b strings.Builder
	w := cpioWriter{w: &b}
	w.dir("modules")
	for i, name := range []string{"modules/a", "modules/bc", "modules/def", "init"} {
		w.file(name, []byte(strings.Repeat("x", i)))
	}
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	archive := filepath.Join(dir, "initramfs")
	if err := os.WriteFile(archive, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, bsdtar, "-xf", archive, "-C", dir)
	for name, want := range map[string]string{"modules/a": "", "modules/bc": "x", "modules/def": "xx", "init": "xxx"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	if got := run(t, bsdtar, "-tf", archive); got != "modules\nmodules/a\nmodules/bc\nmodules/def\ninit\n" {
		t.Errorf("listed: %q", got)
	}
}

// TestModuleOrder loads nothing before what it depends on.
func TestModuleOrder(t *testing.T) {
	k := findKernel(t)
	paths, err := k.order(rootModules)
	if err != nil {
		t.Fatal(err)
	}
	var loaded []string
	for _, path := range paths {
		needs, err := dependencies(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range needs {
			if !slices.Contains(loaded, moduleName(n)) {
				t.Errorf("%s comes before %s", path, n)
			}
		}
		loaded = append(loaded, moduleName(strings.TrimSuffix(filepath.Base(path), ".ko")))
	}
	if !slices.Contains(loaded, "virtio_blk") || !slices.Contains(loaded, "virtio_ring") {
		t.Errorf("only %q", loaded)
	}
}

// TestProgress feeds lines: what is out of order, cut or unknown is a failure
// of the guest, and stalls are found.
func TestProgress(t *testing.T) {
	start := time.Now().Add(-time.Minute)
	feed := func(lines ...string) *progress {
		p := &progress{changed: make(chan struct{})}
		for i, l := range lines {
			p.line(l, start.Add(time.Duration(i)*time.Second))
		}
		return p
	}
	p := feed("boot 1", "start 1 2", "rec 1 1000000000", "rec 2 1500000000", "rec 3 4000000000")
	if err := p.waitNew(3, time.Minute); err != nil || p.LastDurable() != 3 {
		t.Errorf("last %d, %v", p.LastDurable(), err)
	}
	if err := p.waitNew(4, time.Millisecond); err == nil {
		t.Error("record 4 is there")
	}
	// The minute that has passed since counts too, by the host's clock.
	if s := p.StallSince(start); s.Records != 3 || s.Guest != 2500*time.Millisecond || s.Host < 55*time.Second {
		t.Errorf("%+v", s)
	}
	p.end()
	if err := p.waitNew(4, time.Minute); err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("after the end: %v", err)
	}
	for _, lines := range [][]string{{"rec 1 1", "rec 3 2"}, {"rec 2 1", "rec 2 2"}, {"rec 1"}, {"re"}, {"fail no disk"}} {
		if err := feed(lines...).waitNew(1, time.Minute); err == nil {
			t.Errorf("%q is taken for a guest that writes", lines)
		}
	}
}
