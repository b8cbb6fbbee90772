// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm

import (
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// FileKind says what a file of a machine is.
type FileKind string

// The kinds of files.
const (
	FileConfig       FileKind = "config"       // .vmx, .cfg
	FileSupplemental FileKind = "supplemental" // .vmxf
	FileSnapshots    FileKind = "snapshots"    // .vmsd, and the .vmsn and .vmem that it names
	FileNVRAM        FileKind = "nvram"
	FileSuspend      FileKind = "suspend" // .vmss, .vmem, .vmram of a suspended machine
	FileLog          FileKind = "log"
)

// File is a file to carry beside the disks. It is a regular file in the
// directory of the configuration.
type File struct {
	Path    string   // absolute
	Name    string   // a safe component of a path, the file's own where that is one; no two are alike
	Kind    FileKind // never a swap, lock, change tracking, replication or cache file
	MayGrow bool     // it may be written to while it is read
}

// maxNames bounds how many names of a directory are kept. A machine has some
// dozens of files that matter here.
const maxNames = 1 << 14

// fileFinder collects the files of a machine.
type fileFinder struct {
	vm    *VM
	root  disk.Directory
	dir   string
	names []string // entries that matter, sorted
	taken map[string]bool
	safe  map[string]bool
}

// findFiles fills in Files, Snapshots, Suspended and InUse.
func (vm *VM) findFiles(o LoadOptions) (err error) {
	dir := filepath.Dir(vm.Path)
	root, err := vm.tree.OpenDir(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	f := &fileFinder{vm: vm, root: root, dir: dir, taken: map[string]bool{}, safe: map[string]bool{}}
	if err := f.readNames(); err != nil {
		return err
	}
	stem := vm.stem()
	f.add(filepath.Base(vm.Path), FileConfig)
	f.addNamed("extendedConfigFile", FileSupplemental, ".vmxf")
	f.add(stem+".vmxf", FileSupplemental)
	if f.add(stem+".vmsd", FileSnapshots) {
		f.readSnapshots(stem + ".vmsd")
	}
	f.addNamed("nvram", FileNVRAM, ".nvram")
	f.add(stem+".nvram", FileNVRAM)
	f.add("nvram", FileNVRAM)
	f.addSnapshotStates()
	f.addSuspend(stem)
	for _, name := range f.names {
		if isLog(name) && !o.NoLogs {
			f.add(name, FileLog)
		}
	}
	f.findUse(stem)
	return nil
}

// readNames keeps the names that can matter, whatever else the directory holds.
func (f *fileFinder) readNames() error {
	for e, err := range f.root.Entries() {
		if err != nil {
			return err
		}
		if name := e.Name(); isLog(name) || isUseHint(name) {
			if len(f.names) == maxNames {
				f.vm.warn("%s: more than %d logs and locks: the rest is left out", f.dir, maxNames)
				break
			}
			f.names = append(f.names, name)
		}
	}
	slices.Sort(f.names)
	return nil
}

// isLog matches vmware.log and vmware-N.log.
func isLog(name string) bool {
	number, ok1 := strings.CutPrefix(strings.TrimSuffix(name, ".log"), "vmware-")
	_, err := strconv.ParseUint(number, 10, 32)
	return name == "vmware.log" || ok1 && err == nil && strings.HasSuffix(name, ".log")
}

// add takes a file of the directory and reports if it did. One that does not
// exist is passed over; one that is not a regular file is with a warning.
func (f *fileFinder) add(name string, kind FileKind) bool {
	if f.taken[name] {
		return false
	}
	if _, err := f.root.Lstat(name); notThere(err) {
		return false
	}
	f.taken[name] = true
	st, err := f.root.Stat(name) // fails for a link that leads out of the directory
	switch {
	case err != nil:
		f.vm.warn("%s: not taken: %v", filepath.Join(f.dir, name), err)
		return false
	case !st.Mode().IsRegular():
		f.vm.warn("%s: not taken: not a regular file", filepath.Join(f.dir, name))
		return false
	}
	safe := f.safeName(name)
	if safe != name {
		f.vm.warn("%q is carried as %q", filepath.Join(f.dir, name), safe)
	}
	f.vm.Files = append(f.vm.Files, File{
		Path: filepath.Join(f.dir, name), Name: safe, Kind: kind,
		MayGrow: kind == FileLog || kind == FileConfig,
	})
	return true
}

// safeName makes a name safe and tells it apart from those taken before.
func (f *fileFinder) safeName(name string) string {
	safe := SafeName(name)
	for i := 2; f.safe[safe]; i++ {
		safe = strconv.Itoa(i) + "_" + SafeName(name)
	}
	f.safe[safe] = true
	return safe
}

// addNamed takes the file that a key names, if it is in the directory and of
// the right kind: a key must not make a disk pass for something small.
func (f *fileFinder) addNamed(key string, kind FileKind, suffixes ...string) string {
	value := f.vm.Config.value(key)
	if value == "" {
		return ""
	}
	n, why := checkFileName(value)
	if why != "" {
		f.vm.warn("%s: %s: not taken", key, why)
		return ""
	}
	fits := key == "nvram" && n.Base == "nvram"
	for _, s := range suffixes {
		fits = fits || strings.HasSuffix(fold(n.Base), s)
	}
	if !fits {
		f.vm.warn("%s: %q is not a name of such a file: not taken", key, value)
		return ""
	}
	if !f.add(n.Base, kind) && !f.taken[n.Base] {
		f.vm.warn("%s: %q is not in %s: not taken", key, value, f.dir)
	}
	return n.Base
}

// readSnapshots reads the snapshot list. It is carried even if it cannot be
// read, since chains do not depend on it.
func (f *fileFinder) readSnapshots(name string) {
	path := filepath.Join(f.dir, name)
	b, err := readSmallFile(f.vm.tree, path)
	if err == nil {
		var s *Snapshots
		if s, err = ParseSnapshots(b); err == nil {
			f.vm.Snapshots = s
			for _, w := range s.Warnings {
				f.vm.warn("%s: %s", path, w)
			}
			return
		}
	}
	f.vm.warn("the list of snapshots is not read: %v", inFile(err, path))
}

// addSnapshotStates takes the states that the snapshots name, and the memory
// that hosted products keep beside them. A state that does not exist belongs to
// a snapshot of the disks alone.
func (f *fileFinder) addSnapshotStates() {
	for _, s := range f.vm.Snapshots.List {
		n, why := checkFileName(s.File)
		if why != "" || !strings.HasSuffix(fold(n.Base), ".vmsn") {
			continue
		}
		if f.add(n.Base, FileSnapshots) {
			f.add(strings.TrimSuffix(n.Base, filepath.Ext(n.Base))+".vmem", FileSnapshots)
		}
	}
}

// addSuspend takes the memory of a suspended machine. checkpoint.vmState names
// the file while it is suspended and is empty otherwise; where the key is
// missing the file itself tells.
func (f *fileFinder) addSuspend(stem string) {
	state := stem + ".vmss"
	if _, ok := f.vm.Config.Get("checkpoint.vmState"); ok {
		state = f.addNamed("checkpoint.vmState", FileSuspend, ".vmss", ".std")
	} else {
		f.add(state, FileSuspend)
	}
	if !slices.ContainsFunc(f.vm.Files, func(file File) bool { return file.Kind == FileSuspend }) {
		return
	}
	f.vm.Suspended = true
	for _, suffix := range []string{".vmem", ".vmram"} {
		f.add(strings.TrimSuffix(state, filepath.Ext(state))+suffix, FileSuspend)
	}
}
