// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/redo"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vmdk"
)

// LoneDiskKey is the key of a disk that was named without a VM.
const LoneDiskKey = "disk"

// target is a disk that a request wants, as its files are found.
type target struct {
	Disk    // but for what opening it tells
	format  vmdk.SourceFormat
	role    vmdk.Role
	redo    bool // Path is the top of a chain of ESX 2.x
	shared  bool
	machine *vm.VM
	vmDisk  *vm.Disk // nil for a disk alone
}

var errNoDisk = fmt.Errorf("no such disk: %w", fs.ErrNotExist)

// targets returns the disks that are wanted, in the order of the configuration.
func (r *Request) targets() ([]target, error) {
	if r.VM == nil {
		if len(r.Disks) > 0 && !slices.Equal(r.Disks, []string{LoneDiskKey}) {
			return nil, fmt.Errorf("a disk alone has the key %q: %w", LoneDiskKey, errNoDisk)
		}
		base := filepath.Base(r.Path)
		t := target{Disk: Disk{Key: LoneDiskKey, Name: base, Base: base, Path: r.Path}, format: r.Open.Format}
		t.redo = r.Open.Format == vmdk.SourceAuto && strings.HasSuffix(base, redoSuffix)
		return []target{t}, nil
	}
	for _, key := range r.Disks {
		if !slices.ContainsFunc(r.VM.Disks, func(d vm.Disk) bool { return d.Key == key }) {
			return nil, fmt.Errorf("%s: disk %s: %w", r.Path, key, errNoDisk)
		}
	}
	var out []target
	for i := range r.VM.Disks {
		d := &r.VM.Disks[i]
		if !r.Wanted(d.Key) {
			continue
		}
		t := target{
			Disk:   Disk{Key: d.Key, Name: d.File.Written, Base: d.File.Base, Path: d.Path, Adapter: d.Adapter, Mode: d.ModeWritten},
			format: vmdk.SourceAuto, role: vmdk.RoleConfigured, shared: d.Shared, machine: r.VM, vmDisk: d,
		}
		switch {
		case d.RedoLogs > 0:
			t.Path, t.redo = d.TopPath, true
		case d.Raw:
			t.format = vmdk.SourceRaw
		}
		out = append(out, t)
	}
	return out, nil
}

const redoSuffix = ".REDO"

// inDisk says which disk of a machine an error is about.
func (t *target) inDisk(err error) error {
	if err == nil || t.vmDisk == nil {
		return err
	}
	return fmt.Errorf("disk %s: %w", t.Key, err)
}

// open opens the disk with all levels below it.
func (t *target) open(r *Request) (Disk, error) {
	o := r.Open
	o.Format, o.Role = t.format, t.role
	open := vmdk.Open
	if t.redo && t.vmDisk != nil {
		open = vmdk.OpenRedo
	}
	im, err := open(t.Path, o)
	if err != nil {
		return Disk{}, t.inDisk(err)
	}
	if err := t.check(im, r); err != nil {
		return Disk{}, errors.Join(t.inDisk(err), im.Close())
	}
	d := t.Disk
	d.Image, d.Info = im, im.Info()
	if d.Info.CID, err = im.ContentID(); err != nil {
		return Disk{}, errors.Join(t.inDisk(err), im.Close())
	}
	return d, nil
}

func (t *target) check(im *vmdk.Disk, r *Request) error {
	if im.Size()%disk.SectorSize != 0 && !r.Open.PadShort || im.Size() == 0 {
		return &disk.FormatError{
			File: t.Path, Offset: -1, Err: disk.ErrUnsupported,
			Detail: fmt.Sprintf("its size of %d bytes is not a whole number of sectors; --pad-short fills up the last one", im.Size()),
		}
	}
	if r.Opened == nil {
		return nil
	}
	return r.Opened(t.Key, im.Info().Files)
}

// openAll opens all disks that are wanted. If one cannot be opened, none is.
func openAll(ts []target, r *Request) (disks []Disk, err error) {
	for i := range ts {
		d, err := ts[i].open(r)
		if err != nil {
			return nil, errors.Join(err, closeAll(disks))
		}
		disks = append(disks, d)
	}
	return disks, nil
}

func closeAll(disks []Disk) error {
	var errs []error
	for i := range disks {
		errs = append(errs, disks[i].Image.Close())
	}
	return errors.Join(errs...)
}

// redoOptions returns what package redo needs to know of the disk.
func (t *target) redoOptions(r *Request) redo.Options {
	o := redo.Options{Format: t.format, AllowOutside: r.Open.AllowOutside, AllowInUse: r.AllowInUse, Warn: r.Warn}
	if t.vmDisk != nil {
		o = t.machine.RedoOptions(t.vmDisk, o)
	}
	return o
}

// checkRunning refuses a machine that seems to be running.
func (r *Request) checkRunning() error {
	if r.VM == nil || len(r.VM.InUse) == 0 || r.AllowInUse {
		return nil
	}
	return fmt.Errorf("%s: the VM seems to be running (%s): %w; power it off or use a snapshot, or say --allow-in-use if these are leftovers", r.Path, strings.Join(r.VM.InUse, ", "), disk.ErrInUse)
}

// checkRunningOn is checkRunning for files of a tree. One that knows who uses them knows
// it better than names of files do: in the snapshot of a LUN, they are there for good.
func (r *Request) checkRunningOn(ctx context.Context, tree disk.Tree) error {
	guard, ok := tree.(disk.Guard)
	if !ok || r.VM == nil || len(r.VM.InUse) == 0 || r.AllowInUse {
		return r.checkRunning()
	}
	for _, f := range r.VM.Files {
		if err := guard.CheckUse(ctx, f.Path); err != nil {
			return fmt.Errorf("%s: the VM is running: %w; power it off, or read a snapshot of the LUN", r.Path, err)
		}
	}
	r.Warn(fmt.Sprintf("%s: the VM was running when the volume was left or copied (%s): its disks are as after a power cut", r.Path, strings.Join(r.VM.InUse, ", ")))
	return nil
}

// consistency of files that are taken as they are.
func (r *Request) consistency() Consistency {
	if r.VM == nil || len(r.VM.InUse) > 0 {
		return Crash
	}
	return PoweredOff
}
