// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/disk"
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
		if path := filepath.Join(f.dir, name); isUseHint(name) && !f.vm.emptyDir(path) {
			f.vm.InUse = append(f.vm.InUse, useReason(path))
		}
	}
	for _, d := range f.vm.Disks {
		lock := d.Path + ".lck"
		if filepath.Dir(lock) == f.dir {
			continue // seen above
		}
		if _, err := f.vm.tree.Lstat(lock); err == nil && !f.vm.emptyDir(lock) {
			f.vm.InUse = append(f.vm.InUse, useReason(lock))
		}
	}
	f.findHolders()
	// Hosted products keep the memory of a running machine in this file.
	if memory := stem + ".vmem"; !f.taken[memory] {
		if _, err := f.root.Lstat(memory); err == nil {
			f.vm.InUse = append(f.vm.InUse, oneLine("memory file "+filepath.Join(f.dir, memory)))
		}
	}
}

// findHolders asks a file system that knows it who has the files open. A host has the log
// of a machine that runs.
func (f *fileFinder) findHolders() {
	guard, ok := f.vm.tree.(disk.Guard)
	if !ok {
		return
	}
	for _, file := range f.vm.Files {
		who, err := guard.Holder(file.Path)
		if err != nil {
			who = err.Error()
		}
		if who != "" {
			f.vm.InUse = append(f.vm.InUse, oneLine(file.Path+" held by "+who))
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
func (vm *VM) emptyDir(path string) bool {
	st, err := vm.tree.Lstat(path)
	if err != nil || !st.IsDir() {
		return false
	}
	d, err := vm.tree.OpenDir(path)
	if err != nil {
		return false
	}
	defer d.Close() //nolint:errcheck // it was only read
	for range d.Entries() {
		return false
	}
	return true
}
