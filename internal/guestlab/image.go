// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package guestlab

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
)

// initBinary is the guest's init, built once for all guests of a test binary.
var initBinary = sync.OnceValues(func() ([]byte, error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return nil, errors.New("no caller information")
	}
	dir, err := os.MkdirTemp("", "vmsguest-init")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "init")
	c := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, "./guest") //nolint:noctx // outlives the test that comes first
	c.Dir = filepath.Dir(file)
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if msg, err := c.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%v\n%s", err, msg)
	}
	return os.ReadFile(out)
})

// initramfs writes the guest's root: the init and the modules that it loads in
// the order of their names. Its path is returned.
func initramfs(tb testing.TB, k kernel) string {
	tb.Helper()
	testenv.Tool(tb, "go")
	init, err := initBinary()
	if err != nil {
		tb.Fatalf("build of the guest's init: %v", err)
	}
	return k.initramfs(tb, rootModules, map[string][]byte{"init": init})
}

// Image returns the paths of a kernel and of an initramfs for a guest of another
// kind. The modules, and all that they depend on, are in its directory modules and
// can be loaded in the order of their names; files are by their names, of which one
// is init. Directories are made for them.
func Image(tb testing.TB, modules []string, files map[string][]byte) (kernel, initrd string) {
	tb.Helper()
	k := findKernel(tb)
	return k.image, k.initramfs(tb, modules, files)
}

// initramfs is not compressed: that would cost more than it saves.
func (k kernel) initramfs(tb testing.TB, modules []string, files map[string][]byte) string {
	tb.Helper()
	paths, err := k.order(modules)
	if err != nil {
		tb.Fatal(err)
	}
	var b bytes.Buffer
	w := cpioWriter{w: &b}
	w.dir("modules")
	for i, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			tb.Fatal(err)
		}
		w.file(fmt.Sprintf("modules/%03d-%s", i, filepath.Base(path)), content)
	}
	dirs := map[string]bool{".": true, "modules": true}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		w.parents(name, dirs)
		w.file(name, files[name])
	}
	if err := w.close(); err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(tb.TempDir(), "initramfs")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}
