// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsilab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
)

// Options say what runs in a guest, and what tapes or disks there are.
type Options struct {
	Program string   // path of a static executable, which is /job/program in the guest
	Args    []string // of it
	Env     []string // NAME=VALUE, besides those that name the devices
	Tools   []string // programs of the host that are in the guest's PATH
	Links   []string // further names for the first of them, as busybox has its programs

	MemoryMiB int // 768 if 0

	// LUNs has the guest have disks in place of tapes: LUN_A and LUN_B, which has blocks of
	// 4096 bytes, on a host adapter each for LUN_A and LUN_A_OTHER, and LUN_THIN, which tells
	// what is unmapped. LUN_A_SG is its generic device, LUN_A_HCTL its address, LUN_A_STORE
	// what package fabric presents.
	LUNs bool

	Tapes    int    // 4 if 0; the first two are in drives
	Capacity int64  // bytes of each; 8 MiB if 0
	Warning  int64  // bytes of the zone before the end; 1 MiB if 0
	Image    string // file that keeps the tapes, see MakeImage; empty: they are gone with the guest
}

func (o Options) withDefaults() Options {
	if o.MemoryMiB == 0 {
		o.MemoryMiB = 768
	}
	if o.Tapes == 0 {
		o.Tapes = 4
	}
	if o.Capacity == 0 {
		o.Capacity = 8 << 20
	}
	if o.Warning == 0 {
		o.Warning = 1 << 20
	}
	return o
}

// tapes is how many tapes there are.
func (o Options) tapes() int {
	if o.LUNs {
		return 0
	}
	return o.Tapes
}

func (o Options) luns() int {
	if o.LUNs {
		return 1
	}
	return 0
}

func (o Options) modules() []string {
	if o.LUNs {
		return slices.Concat(modules, lunModules)
	}
	return slices.Concat(modules, tapeModules)
}

// RegionBytes is how much of an image each tape has.
func (o Options) RegionBytes() int64 { return 2 * o.withDefaults().Capacity }

// MakeImage makes an image with blank tapes.
func MakeImage(tb testing.TB, o Options) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "tapes")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Truncate(path, o.RegionBytes()*int64(o.withDefaults().Tapes)); err != nil {
		tb.Fatal(err)
	}
	return path
}

// files returns what the guest's root has, by name.
func (o Options) files(tb testing.TB) map[string][]byte {
	tb.Helper()
	files := map[string][]byte{
		"init": initBinary(tb), "job/program": read(tb, o.Program),
		"job/args": []byte(strings.Join(o.Args, "\n")), "job/env": []byte(strings.Join(o.Env, "\n")),
		"job/links": []byte(strings.Join(o.Links, "\n")),
	}
	for i, name := range o.Tools {
		path := testenv.Tool(tb, name)
		files["bin/"+name] = read(tb, path)
		if i == 0 {
			files["job/tool"] = []byte("/bin/" + name)
		}
		for _, lib := range libraries(tb, path) {
			files[strings.TrimPrefix(lib, "/")] = read(tb, lib)
		}
	}
	return files
}

// libraries returns what a program is linked with, and what loads it.
func libraries(tb testing.TB, program string) []string {
	tb.Helper()
	out, err := exec.CommandContext(tb.Context(), testenv.Tool(tb, "ldd"), program).CombinedOutput()
	if err != nil && !strings.Contains(string(out), "not a dynamic executable") {
		tb.Fatalf("ldd %s: %v\n%s", program, err, out)
	}
	var all []string
	for word := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(word, "/") && strings.Contains(word, ".so") {
			all = append(all, word)
		}
	}
	return all
}

func read(tb testing.TB, path string) []byte {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// initBinary builds the guest's init.
func initBinary(tb testing.TB) []byte {
	tb.Helper()
	return read(tb, Build(tb, "internal/scsilab/guest"))
}

// Build builds a program of this module for the guest and returns its path.
func Build(tb testing.TB, dir string) string {
	tb.Helper()
	return goTool(tb, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", "", "./"+dir)
}

// BuildTest builds the tests of a package of this module for the guest.
func BuildTest(tb testing.TB, dir string) string {
	tb.Helper()
	return goTool(tb, "test", "-c", "-ldflags=-s -w", "-o", "", "./"+dir)
}

// goTool runs Go with -o naming a new file.
func goTool(tb testing.TB, args ...string) string {
	tb.Helper()
	out := filepath.Join(tb.TempDir(), "program")
	for i, a := range args {
		if a == "-o" {
			args[i+1] = out
		}
	}
	c := exec.CommandContext(tb.Context(), testenv.Tool(tb, "go"), args...)
	c.Dir = testenv.Root(tb)
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if msg, err := c.CombinedOutput(); err != nil {
		tb.Fatal(fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, msg))
	}
	return out
}
