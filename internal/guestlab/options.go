// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package guestlab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/guestlab/record"
	"github.com/vmstream/vmstream/internal/testenv"
)

// Formats are the formats of disks that a guest runs on.
var Formats = []string{"raw", "qcow2", "vmdk"}

// Options say how a guest is made. The zero value is a guest with one raw disk.
type Options struct {
	Format    string   // of Formats; raw if empty
	SizeBytes int64    // of each disk; 512 MiB if 0
	Disks     int      // 1 if 0; each record goes to all of them, in order
	Ballast   int64    // bytes of a file that lies on each disk from the beginning and never changes
	Dir       string   // where the disks lie; a temporary directory if empty
	Reuse     []string // disks of Format that are there; nothing is made then
	Args      []string // more arguments for QEMU, such as a virtio-serial port
}

func (o Options) withDefaults(tb testing.TB) Options {
	tb.Helper()
	if o.Format == "" {
		o.Format = "raw"
	}
	if !slices.Contains(Formats, o.Format) {
		tb.Fatalf("guestlab: format %q", o.Format)
	}
	if o.SizeBytes == 0 {
		o.SizeBytes = 512 << 20
	}
	if len(o.Reuse) > 0 {
		o.Disks = len(o.Reuse)
	}
	if o.Disks == 0 {
		o.Disks = 1
	}
	if o.Dir == "" {
		o.Dir = tb.TempDir()
	}
	return o
}

// disks returns the paths of the guest's disks, with a file system on each if
// they are new.
func (o Options) disks(tb testing.TB) []string {
	tb.Helper()
	if len(o.Reuse) > 0 {
		return o.Reuse
	}
	paths := make([]string, o.Disks)
	for i := range paths {
		paths[i] = filepath.Join(o.Dir, fmt.Sprintf("disk%d.%s", i, o.Format))
		makeDisk(tb, paths[i], o)
	}
	return paths
}

// makeDisk makes a disk with an ext4 file system on all of it.
func makeDisk(tb testing.TB, path string, o Options) {
	tb.Helper()
	raw := path
	if o.Format != "raw" {
		raw = filepath.Join(tb.TempDir(), "mkfs.raw")
	}
	content := tb.TempDir()
	if o.Ballast > 0 {
		if err := os.WriteFile(filepath.Join(content, ballastName), ballast(o.Ballast), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	// All tables now: a guest that initialises them later would write at its own pace.
	run(tb, sbinTool(tb, "mkfs.ext4"), "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0",
		"-d", content, raw, strconv.FormatInt(o.SizeBytes>>10, 10)+"k")
	if o.Format != "raw" {
		run(tb, testenv.Tool(tb, "qemu-img"), "convert", "-f", "raw", "-O", o.Format, raw, path)
		if err := os.Remove(raw); err != nil {
			tb.Fatal(err)
		}
	}
}

const ballastName = "ballast"

// ballast returns the content of a ballast of a size.
func ballast(sizeBytes int64) []byte {
	b := make([]byte, sizeBytes)
	record.Fill(b, uint64(sizeBytes)) //nolint:gosec // not negative
	return b
}

// sbinTool finds a program that is often outside a user's PATH.
func sbinTool(tb testing.TB, name string) string {
	tb.Helper()
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p
		}
	}
	return testenv.Tool(tb, name)
}

// run runs a program and returns what it prints.
func run(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := exec.CommandContext(tb.Context(), name, args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
