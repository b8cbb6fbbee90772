// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// isUseHint matches what a running machine has in its directory: locks (.lck
// files and directories, and on NFS .lck-NUMBER) and swap files.
func isUseHint(name string) bool {
	lower := fold(name)
	return strings.HasSuffix(lower, ".lck") || strings.HasPrefix(lower, ".lck-") || strings.HasSuffix(lower, ".vswp")
}

// findUse fills in why the machine may be running. Where several machines share
// a directory, as on VMFS-2, the hints may be about another one.
func (f *fileFinder) findUse(stem string) {
	for _, name := range f.names {
		if path := filepath.Join(f.dir, name); isUseHint(name) && !emptyDir(path) {
			f.vm.InUse = append(f.vm.InUse, useReason(path))
		}
	}
	for _, d := range f.vm.Disks {
		lock := d.Path + ".lck"
		if filepath.Dir(lock) == f.dir {
			continue // seen above
		}
		if _, err := os.Lstat(lock); err == nil && !emptyDir(lock) {
			f.vm.InUse = append(f.vm.InUse, useReason(lock))
		}
	}
	// Hosted products keep the memory of a running machine in this file.
	if memory := stem + ".vmem"; !f.taken[memory] {
		if _, err := f.root.Lstat(memory); err == nil {
			f.vm.InUse = append(f.vm.InUse, oneLine("memory file "+filepath.Join(f.dir, memory)))
		}
	}
}

// StartedSince returns the reasons in InUse that were not there earlier: the
// machine has been started since.
func (vm *VM) StartedSince(earlier []string) []string {
	var out []string
	for _, why := range vm.InUse {
		if !slices.Contains(earlier, why) {
			out = append(out, why)
		}
	}
	return out
}

func useReason(path string) string {
	if strings.HasSuffix(fold(path), ".vswp") {
		return oneLine("swap file " + path)
	}
	return oneLine("lock " + path)
}

// emptyDir reports if path is a directory without entries: what is left of a
// lock that was given back.
func emptyDir(path string) bool {
	st, err := os.Lstat(path)
	if err != nil || !st.IsDir() {
		return false
	}
	d, err := os.Open(path)
	if err != nil {
		return false
	}
	_, err = d.Readdirnames(1)
	return d.Close() == nil && errors.Is(err, io.EOF)
}
