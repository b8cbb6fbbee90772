// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// LoadOptions says how the files of a machine are found. The zero value is fit
// for a directory that the operator trusts.
type LoadOptions struct {
	NoLogs bool // leave vmware.log and its predecessors out

	// Tree is where the machine lies; nil stands for the operating system's files.
	Tree disk.Tree

	// Volumes has the directory on this host of each VMFS volume, by the name
	// that configurations use: a label, a UUID, or vmhba0:0:0:1.
	Volumes map[string]string

	// Roots are directories in which disks may lie beside the machine's own,
	// after symbolic links. Empty allows every place a configuration names.
	Roots []string

	// Copy says that the directory of the configuration is a copy of the
	// machine, as a backup is: disks are looked for in it alone, by the last
	// component of their names, and one that is not there is left out with a
	// warning.
	Copy CopyKind
}

// DefaultRoots returns where disks may lie beside the machine's own directory if
// the operator does not say otherwise: who can write a configuration must not
// get every file that we can read. Disks on other datastores are where ESX has
// them.
func DefaultRoots() []string { return []string{"/vmfs/volumes"} }

// VM is a machine as it lies on this host.
type VM struct {
	Path        string // of the configuration, absolute, without symbolic links
	Name        string // a safe component of a path, from the display name: see [SafeName]
	DisplayName string // as the configuration has it, "" if absent
	GuestOS     string // as the configuration has it
	Config      *Config
	Disks       []Disk
	RawDisks    bool       // the configuration is of ESX 2.x, which takes raw disks
	Files       []File     // the configuration first
	Snapshots   *Snapshots // empty if there is no list

	Suspended bool     // the machine's memory is in a file of kind suspend
	InUse     []string // why the machine may be running: lock files, a swap file; hints, not proof
	Warnings  []string // one line each

	tree disk.Tree
}

// Tree is where the machine lies.
func (vm *VM) Tree() disk.Tree { return disk.TreeOr(vm.tree) }

// Disk is a disk of a machine, found on this host.
type Disk struct {
	DiskRef
	Path     string // absolute; what the configuration names
	TopPath  string // top of the redo logs beside it, Path if there are none
	RedoLogs int    // how many redo logs TopPath is above Path
}

// Load reads the configuration at path and finds the files of the machine. It
// fails if a disk is missing (fs.ErrNotExist), lies outside the allowed
// directories (disk.ErrOutside) or cannot be told (disk.ErrUnsupported for an
// encrypted configuration); what is wrong with other files is a warning.
//
// A relative name of a disk is relative to the configuration's directory. An
// absolute one is taken where it exists; otherwise, and for a name on a VMFS
// volume or of Windows, the volume is looked for, and at last the same base name
// in the directory of the configuration, since that may be a copy.
func Load(path string, o LoadOptions) (*VM, error) {
	vm, err := readVM(disk.TreeOr(o.Tree), path)
	if err != nil {
		return nil, err
	}
	if err := vm.load(o); err != nil {
		return nil, inFile(err, vm.Path)
	}
	return vm, nil
}

// readVM reads the configuration and what it says about the machine itself.
func readVM(tree disk.Tree, path string) (*VM, error) {
	real, err := realPath(tree, path)
	if err != nil {
		return nil, err
	}
	b, err := readSmallFile(tree, real)
	if err != nil {
		return nil, err
	}
	c, err := ParseConfig(b)
	if err != nil {
		return nil, inFile(err, real)
	}
	vm := &VM{tree: tree, Path: real, Config: c, DisplayName: c.DisplayName(), GuestOS: c.value("guestOS"), Snapshots: &Snapshots{}, Warnings: c.Warnings()}
	vm.Name = SafeName(vm.DisplayName)
	if vm.DisplayName == "" {
		vm.Name = SafeName(vm.stem())
	}
	return vm, nil
}

// stem is the name of the configuration without its extension: other files of
// the machine are called by it.
func (vm *VM) stem() string {
	base := filepath.Base(vm.Path)
	return strings.TrimSuffix(base, filepath.Ext(base))
}

func (vm *VM) warn(format string, args ...any) {
	vm.Warnings = append(vm.Warnings, oneLine(fmt.Sprintf(format, args...)))
}

func (vm *VM) load(o LoadOptions) error {
	refs, warnings, err := vm.Config.Disks()
	if err != nil {
		return err
	}
	vm.Warnings = append(vm.Warnings, warnings...)
	r := resolver{tree: vm.tree, dir: filepath.Dir(vm.Path), volumes: o.Volumes, roots: o.Roots, copy: o.Copy != NoCopy}
	for _, ref := range refs {
		vm.RawDisks = vm.RawDisks || ref.Raw
		if o.Copy != NoCopy {
			there, err := vm.copied(&ref, r, o.Copy)
			if err != nil {
				return err
			}
			if !there {
				continue
			}
		}
		d, err := vm.findDisk(ref, r)
		if err != nil {
			return err
		}
		vm.Disks = append(vm.Disks, d)
	}
	if err := vm.distinct(); err != nil {
		return err
	}
	return vm.findFiles(o)
}

// findDisk finds a disk and the redo logs above it.
func (vm *VM) findDisk(ref DiskRef, r resolver) (Disk, error) {
	path, err := r.find(ref.Key, ref.File)
	if err != nil {
		return Disk{}, err
	}
	top, levels, err := redoTop(vm.tree, path)
	if err != nil {
		return Disk{}, fmt.Errorf("%s: %w", ref.Key, err)
	}
	d := Disk{DiskRef: ref, Path: path, TopPath: top, RedoLogs: levels}
	if ref.Mode.Volatile() {
		if levels > 0 {
			vm.warn("%s: %s: redo logs of a disk of mode %s are dropped at power-off and are not taken", ref.Key, top, ref.Mode)
		}
		d.TopPath, d.RedoLogs = path, 0
		return d, nil
	}
	if levels > 1 {
		vm.warn("%s: %s: %d redo logs: a commit may have been interrupted", ref.Key, top, levels)
	}
	return d, vm.checkRedo(d)
}

// checkRedo compares the redo log that the configuration notes with those
// found. Without one that is noted, the disk would be an old state of itself.
func (vm *VM) checkRedo(d Disk) error {
	if d.Redo == "" {
		return nil
	}
	key := d.Key + ".redo"
	n, why := checkFileName(d.Redo)
	if why != "" {
		return configError(key, -1, disk.ErrCorrupt, "%s", why)
	}
	name := d.Path
	for range d.RedoLogs {
		if name += redoSuffix; filepath.Base(name) == n.Base {
			return nil
		}
	}
	return configError(key, -1, fs.ErrNotExist, "the redo log %q is not above %s: put it beside the disk", d.Redo, d.Path)
}

// distinct refuses two devices with one file: one of the two was found in the
// wrong place, as happens when disks of one name were copied into one directory.
func (vm *VM) distinct() error {
	stats := make([]fs.FileInfo, len(vm.Disks))
	for i, d := range vm.Disks {
		st, err := vm.tree.Stat(d.Path)
		if err != nil {
			return err
		}
		for j, other := range stats[:i] {
			if vm.tree.SameFile(st, other) {
				return configError(d.Key, -1, disk.ErrMismatch, "%q and %q of %s lead to one file, %s", d.File.Written, vm.Disks[j].File.Written, vm.Disks[j].Key, d.Path)
			}
		}
		stats[i] = st
	}
	return nil
}

// readSmallFile reads a regular file of at most MaxConfigBytes. The size is
// that at the time of opening; the file may be growing.
func readSmallFile(tree disk.Tree, path string) (b []byte, err error) {
	f, err := tree.Open(path) // it does not wait for the other end of a FIFO
	if err != nil {
		return nil, err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	if f.Device() || f.Size() > MaxConfigBytes {
		return nil, inFile(configError("size", -1, disk.ErrUnsupported, "not a regular file of at most %d bytes", MaxConfigBytes), path)
	}
	b = make([]byte, f.Size())
	if err := disk.ReadFull(f, b, 0); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}
