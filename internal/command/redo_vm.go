// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/redo"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vmdk"
)

// redoDisk is a disk whose levels are meant.
type redoDisk struct {
	key     string // "" if it was named without a VM
	path    string
	mode    string
	shared  bool     // with other machines
	inUse   []string // why the VM may be running
	options redo.Options
}

// find returns the one disk that is meant and is going to be changed.
func (r *redoFlags) find(a *app, tree disk.Tree, path string) (*redoDisk, error) {
	disks, err := r.findAll(a, tree, path)
	if err != nil {
		return nil, err
	}
	if len(disks) > 1 {
		var keys []string
		for _, d := range disks {
			keys = append(keys, d.key)
		}
		return nil, cli.Usage(fmt.Errorf("%w: %s", errSeveralDisks, strings.Join(keys, ", ")))
	}
	d := &disks[0]
	switch {
	case d.shared:
		return nil, cli.Source(fmt.Errorf("%s: disk %s is shared with other VMs: %w", path, d.key, disk.ErrUnsupported))
	case len(d.inUse) > 0 && !r.allowInUse:
		return nil, cli.Source(fmt.Errorf("%s: the VM seems to be running (%s): %w; power it off, or say --allow-in-use if these are leftovers", path, strings.Join(d.inUse, ", "), disk.ErrInUse))
	}
	return d, nil
}

// findAll returns the disk at path, or those of a VM.
func (r *redoFlags) findAll(a *app, tree disk.Tree, path string) ([]redoDisk, error) {
	if err := checkSourceFormat(r.format); err != nil {
		return nil, err
	}
	o := redo.Options{Tree: tree, Format: vmdk.SourceFormat(r.format), AllowOutside: r.allowOutside, AllowInUse: r.allowInUse, Warn: a.console.Warn}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".vmx", ".cfg":
		disks, err := r.disksOf(a, path, o)
		return disks, cli.Source(err)
	}
	if r.key != "" {
		return nil, cli.Usage(errors.New("--disk goes with a VMX; a disk is named by its path"))
	}
	return []redoDisk{{path: path, options: o}}, nil
}

func (r *redoFlags) disksOf(a *app, path string, o redo.Options) ([]redoDisk, error) {
	load := vm.LoadOptions{Tree: o.Tree, NoLogs: true}
	if !r.allowOutside { // as for a backup
		load.Roots = vm.DefaultRoots()
	}
	m, err := vm.Load(path, load)
	if err != nil {
		return nil, err
	}
	for _, w := range m.Warnings {
		a.console.Detail("%s: %s", path, w)
	}
	var found []redoDisk
	for i := range m.Disks {
		d := &m.Disks[i]
		if r.key != "" && d.Key != r.key {
			continue
		}
		found = append(found, redoDisk{key: d.Key, path: d.Path, mode: string(d.Mode), shared: d.Shared, inUse: m.InUse, options: m.RedoOptions(d, o)})
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: there is no disk %s", path, r.key)
	}
	return found, nil
}
