// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// defaultDepth reaches /vmfs/volumes/UUID/folder/machine from any of its parts.
const defaultDepth = 8

// maxEntries bounds how many subdirectories and configurations of one directory
// are kept.
const maxEntries = 1 << 16

// ListOptions says where machines are looked for and what is told about them.
type ListOptions struct {
	LoadOptions

	// MaxDepth is how many levels below the given directories are searched;
	// 0 stands for 8, and a negative number for the directories alone.
	MaxDepth int

	// Capacity returns the capacity in bytes of the disk at path. Nil leaves
	// capacities out, except those of raw disks of ESX 2.x. It is called from
	// the goroutine that takes the sequence.
	Capacity func(path string) (int64, error)
}

// Summary is what a list tells about a machine.
type Summary struct {
	Name          string   `json:"name"` // safe as a component of a path
	Path          string   `json:"path"` // of the configuration, absolute
	GuestOS       string   `json:"guest_os,omitempty"`
	Disks         int      `json:"disks"`
	CapacityBytes int64    `json:"capacity_bytes,omitempty"` // of all disks; 0 if that of one is not known
	Snapshots     int      `json:"snapshots"`
	Suspended     bool     `json:"suspended"`
	InUse         []string `json:"in_use,omitempty"` // why it may be running
	Encrypted     bool     `json:"encrypted,omitempty"`
	Warnings      []string `json:"warnings,omitempty"`
	Error         string   `json:"error,omitempty"` // why it cannot be backed up as it is

	// Err is the error itself, for errors.Is.
	Err error `json:"-"`
}

// List yields the machines under the given directories, directory by directory
// and in the order of names. A machine that cannot be loaded is yielded with
// its Err set. An error in the second place comes with a zero Summary: it is a
// directory or file that could not be searched, and the sequence goes on,
// except that the context's error ends it.
//
// Machines are files called *.vmx, and those called *.cfg that hold the keys of
// one. Symbolic links below the given directories are not followed.
func List(ctx context.Context, dirs []string, o ListOptions) iter.Seq2[Summary, error] {
	return func(yield func(Summary, error) bool) {
		w := &walker{tree: disk.TreeOr(o.Tree), options: o, yield: yield, roots: map[string]bool{}, maxDepth: o.MaxDepth}
		if o.MaxDepth == 0 {
			w.maxDepth = defaultDepth
		}
		var roots []string
		for _, dir := range dirs {
			root, err := realPath(w.tree, dir)
			if err != nil {
				if !yield(Summary{}, err) {
					return
				}
				continue
			}
			if !w.roots[root] {
				w.roots[root] = true
				roots = append(roots, root)
			}
		}
		for _, root := range roots {
			w.deeper = 0
			if !w.walk(ctx, root, 0) {
				return
			}
			if w.deeper > 0 && !yield(Summary{}, fmt.Errorf("%s: %d directories are more than %d levels deep and are not searched", root, w.deeper, max(w.maxDepth, 0))) {
				return
			}
		}
	}
}

// walker searches directories. Its methods report if the search goes on.
type walker struct {
	tree     disk.Tree
	options  ListOptions
	yield    func(Summary, error) bool
	roots    map[string]bool // searched on their own, so never from one above
	maxDepth int
	deeper   int // directories not searched
}

func (w *walker) walk(ctx context.Context, dir string, depth int) bool {
	if err := ctx.Err(); err != nil {
		w.yield(Summary{}, err)
		return false
	}
	configs, dirs, err := readMachineDir(w.tree, dir)
	if err != nil && !w.yield(Summary{}, err) {
		return false
	}
	for _, name := range configs {
		if err := ctx.Err(); err != nil {
			w.yield(Summary{}, err)
			return false
		}
		if !w.config(filepath.Join(dir, name)) {
			return false
		}
	}
	for _, name := range dirs {
		sub := filepath.Join(dir, name)
		switch {
		case w.roots[sub]:
		case depth >= w.maxDepth:
			w.deeper++
		case !w.walk(ctx, sub, depth+1):
			return false
		}
	}
	return true
}

// readMachineDir returns the names of possible configurations and of
// subdirectories, sorted, also if there is an error.
func readMachineDir(tree disk.Tree, dir string) (configs, dirs []string, err error) {
	d, err := tree.OpenDir(dir)
	if err != nil {
		return nil, nil, err
	}
	for e, entryErr := range d.Entries() {
		if err = entryErr; err != nil {
			break
		}
		name := e.Name()
		switch {
		case e.IsDir() && !isUseHint(name):
			dirs = append(dirs, name)
		case e.Type().IsRegular() && isConfigName(name):
			configs = append(configs, name)
		}
		if len(dirs)+len(configs) > maxEntries {
			err = fmt.Errorf("%s: more than %d entries, the rest is not searched: %w", dir, maxEntries, disk.ErrUnsupported)
			break
		}
	}
	slices.Sort(configs)
	slices.Sort(dirs)
	return configs, dirs, errors.Join(err, d.Close())
}

func isConfigName(name string) bool {
	ext := fold(filepath.Ext(name))
	return ext == ".vmx" || ext == ".cfg"
}

// config yields the machine at path, if it is one.
func (w *walker) config(path string) bool {
	vm, err := readVM(w.tree, path)
	if err != nil {
		if fold(filepath.Ext(path)) == ".vmx" {
			return w.yield(failed(path, err), nil)
		}
		// All sorts of programs have .cfg files: only ones that cannot even be
		// opened may be a machine that goes missing.
		var notConfig *disk.FormatError
		return errors.As(err, &notConfig) || w.yield(Summary{}, err)
	}
	if !isMachine(vm.Config) {
		if fold(filepath.Ext(path)) == ".cfg" {
			return true
		}
		return w.yield(failed(path, inFile(configError("keys", -1, disk.ErrUnknown, "none of a machine: no config.version, no displayName, no disk"), path)), nil)
	}
	return w.yield(w.summary(vm), nil)
}

func failed(path string, err error) Summary {
	base := filepath.Base(path)
	return Summary{Name: SafeName(strings.TrimSuffix(base, filepath.Ext(base))), Path: path, Error: oneLine(err.Error()), Err: err}
}

// isMachine reports if the keys are those of a machine.
func isMachine(c *Config) bool {
	for _, key := range []string{"config.version", "displayName", "encryption.keySafe"} {
		if _, ok := c.Get(key); ok {
			return true
		}
	}
	for _, d := range c.devices() {
		if isDiskName(c.value(d.String()+".fileName")) || isDiskName(c.value(d.String()+".name")) {
			return true
		}
	}
	return false
}

func (w *walker) summary(vm *VM) Summary {
	s := Summary{Name: vm.Name, Path: vm.Path, GuestOS: oneLine(vm.GuestOS), Encrypted: vm.Config.Encrypted()}
	if err := vm.load(w.options.LoadOptions); err != nil {
		s.Err = inFile(err, vm.Path)
		s.Error = oneLine(s.Err.Error())
	}
	s.Disks = len(vm.Disks)
	if s.Err != nil {
		// What the configuration says is still worth telling.
		refs, _, _ := vm.Config.Disks()
		s.Disks = len(refs)
	} else {
		s.CapacityBytes = w.capacity(vm)
	}
	s.Snapshots, s.Suspended, s.InUse, s.Warnings = len(vm.Snapshots.List), vm.Suspended, vm.InUse, vm.Warnings
	return s
}

// capacity returns the capacity of all disks in bytes, 0 if one is not known.
func (w *walker) capacity(vm *VM) int64 {
	var sum int64
	for _, d := range vm.Disks {
		n, err := w.diskCapacity(d)
		if err != nil {
			vm.warn("%s: its capacity is not known: %v", d.Key, err)
			return 0
		}
		if n <= 0 || n > disk.MaxSize {
			return 0
		}
		sum += n // some hundreds of disks of 64 TiB: far from an overflow
	}
	return sum
}

func (w *walker) diskCapacity(d Disk) (int64, error) {
	if d.Raw {
		st, err := w.tree.Stat(d.Path)
		if err != nil || !st.Mode().IsRegular() {
			return 0, err
		}
		return st.Size() / disk.SectorSize * disk.SectorSize, nil
	}
	if w.options.Capacity == nil {
		return 0, nil
	}
	return w.options.Capacity(d.Path)
}
