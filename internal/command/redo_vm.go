// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
func (r *redoFlags) find(a *app, path string) (*redoDisk, error) {
	disks, err := r.findAll(a, path)
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
func (r *redoFlags) findAll(a *app, path string) ([]redoDisk, error) {
	if err := checkSourceFormat(r.format); err != nil {
		return nil, err
	}
	o := redo.Options{Format: vmdk.SourceFormat(r.format), AllowOutside: r.allowOutside, AllowInUse: r.allowInUse, Warn: a.console.Warn}
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
	load := vm.LoadOptions{NoLogs: true}
	if !r.allowOutside { // as for a backup
		load.Roots = []string{"/vmfs/volumes"}
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
		do := o
		do.Role, do.Config = vmdk.RoleConfigured, m.Path
		if d.Raw || d.RedoLogs > 0 {
			do.Format = vmdk.SourceRaw
		}
		do.Switch = switcher(m, d)
		found = append(found, redoDisk{key: d.Key, path: d.Path, mode: string(d.Mode), shared: d.Shared, inUse: m.InUse, options: do})
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: there is no disk %s", path, r.key)
	}
	return found, nil
}

// redoSuffix is what names of redo logs of ESX 2.x end in.
const redoSuffix = ".REDO"

// switcher returns a function that makes the configuration name another top of
// a disk. The file is read anew each time: it is changed only if it still says
// what it is expected to.
func switcher(m *vm.VM, d *vm.Disk) func(from, to string) error {
	return func(from, to string) error {
		esx2 := strings.HasSuffix(from, redoSuffix) || strings.HasSuffix(to, redoSuffix)
		key := d.Key + ".fileName"
		if esx2 {
			key = d.Key + ".redo"
		}
		b, err := os.ReadFile(m.Path)
		if err != nil {
			return err
		}
		c, err := vm.ParseConfig(b)
		if err != nil {
			return fmt.Errorf("%s: %w", m.Path, err)
		}
		now, ok := c.Get(key)
		if esx2 && now == "" { // it notes no redo log: the names say it
			return nil
		}
		value, err := renamed(now, from, to, esx2)
		if err != nil || !ok {
			return fmt.Errorf("%s: %s: %w", m.Path, key, errors.Join(err, disk.ErrMismatch))
		}
		if value == now {
			return nil
		}
		edited, err := c.Edit(map[string]string{key: value})
		if err != nil {
			return fmt.Errorf("%s: %w", m.Path, err)
		}
		return redo.ReplaceFile(redo.OS(), m.Path, edited)
	}
}

// renamed returns how the configuration is to name the file to, where it names
// from, or to already.
func renamed(now, from, to string, esx2 bool) (string, error) {
	n, err := vm.ParseFileName(now)
	if err != nil {
		return "", err
	}
	toBase := filepath.Base(to)
	if esx2 && !strings.HasSuffix(to, redoSuffix) {
		return "", nil // the base: there is no redo log
	}
	if !slices.Contains([]string{filepath.Base(from), toBase}, n.Base) {
		return "", fmt.Errorf("it names %q, neither %s nor %s", now, filepath.Base(from), toBase)
	}
	if n.Base == toBase {
		return now, nil
	}
	if filepath.Dir(from) != filepath.Dir(to) {
		return to, nil
	}
	return strings.TrimSuffix(now, n.Base) + toBase, nil
}
