// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package guestlab

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
)

// kernelEnv names a directory that has boot/vmlinuz-VERSION and
// lib/modules/VERSION, as a kernel package has them.
const kernelEnv = "VMSTREAM_GUEST_KERNEL"

// kernel is a Linux kernel with the modules that belong to it.
type kernel struct {
	image   string
	modules string // directory
}

// rootModules are what the guest needs, if the kernel does not have it built
// in: the disks, a file system, and the checksum that it asks for by name.
var rootModules = []string{"virtio_pci", "virtio_blk", "crc32c_generic", "ext4"}

// findKernel returns the kernel that scripts/guest-kernel.sh has fetched, or
// one that is installed. A kernel for clouds is first: it has the least drivers.
func findKernel(tb testing.TB) kernel {
	tb.Helper()
	roots := []string{os.Getenv(kernelEnv)}
	if roots[0] == "" {
		roots = []string{filepath.Join(testenv.Root(tb), "out", "guest-kernel")}
		if runtime.GOARCH == "amd64" { // as the guest is
			roots = append(roots, "/")
		}
	}
	for _, root := range roots {
		for _, pattern := range []string{"vmlinuz-*cloud*", "vmlinuz-*"} {
			images, err := filepath.Glob(filepath.Join(root, "boot", pattern))
			if err != nil {
				tb.Fatal(err)
			}
			slices.Reverse(images)
			for _, image := range images {
				k := kernel{image: image, modules: filepath.Join(root, "lib", "modules", strings.TrimPrefix(filepath.Base(image), "vmlinuz-"))}
				if k.usable() {
					return k
				}
			}
		}
	}
	testenv.Missing(tb, "needs a Linux kernel for guests in "+strings.Join(roots, " or ")+": scripts/guest-kernel.sh fetches one")
	return kernel{}
}

// usable reports if image and modules can be read: some distributions let only
// root read a kernel, others compress the modules.
func (k kernel) usable() bool {
	f, err := os.Open(k.image)
	if err != nil {
		return false
	}
	_ = f.Close() // only read
	files, err := k.order(rootModules)
	return err == nil && len(files) > 0
}

// order returns the files of the modules and of all that they depend on, in an
// order in which they can be loaded. What the kernel has built in is left out.
func (k kernel) order(names []string) ([]string, error) {
	files, err := k.index()
	if err != nil {
		return nil, err
	}
	var out []string
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		path, ok := files[name]
		if !ok || seen[name] {
			return nil
		}
		seen[name] = true
		needs, err := dependencies(path)
		if err != nil {
			return err
		}
		for _, n := range needs {
			if err := add(moduleName(n)); err != nil {
				return err
			}
		}
		out = append(out, path)
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// index returns the files of all modules by name.
func (k kernel) index() (map[string]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(k.modules, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, ok := strings.CutSuffix(d.Name(), ".ko"); ok && d.Type().IsRegular() {
			files[moduleName(name)] = path
		}
		return nil
	})
	return files, err
}

// moduleName returns the name that the kernel has for a file's name.
func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// dependencies returns the names of the modules that one needs, from its
// section .modinfo: strings KEY=VALUE that end with NUL. modules.dep says the
// same, but is made only when a package is installed.
func dependencies(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close() // only read
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New(path + ": no section .modinfo")
	}
	b, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var names []string
	for field := range bytes.SplitSeq(b, []byte{0}) {
		if list, ok := bytes.CutPrefix(field, []byte("depends=")); ok && len(list) > 0 {
			names = append(names, strings.Split(string(list), ",")...)
		}
	}
	return names, nil
}
