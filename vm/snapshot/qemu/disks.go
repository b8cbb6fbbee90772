// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vm/snapshot"
)

// loneKey is the key of a disk that was named without a machine.
const loneKey = "disk"

// maxChain bounds the chain of backing files that is looked at.
const maxChain = 256

// blockInfo is a device as query-block has it.
type blockInfo struct {
	Device    string `json:"device"`
	QDev      string `json:"qdev"`
	Removable bool   `json:"removable"`
	Inserted  *struct {
		File     string      `json:"file"`
		Node     string      `json:"node-name"`
		Driver   string      `json:"drv"`
		ReadOnly bool        `json:"ro"`
		Image    *imageInfo  `json:"image"`
		Bitmaps  []dirtyInfo `json:"dirty-bitmaps"`
	} `json:"inserted"`
}

// imageInfo is a link of a disk's chain.
type imageInfo struct {
	File     string     `json:"filename"`
	Size     int64      `json:"virtual-size"`
	Backing  *imageInfo `json:"backing-image"`
	Specific struct {
		Data json.RawMessage `json:"data"`
	} `json:"format-specific"`
}

// dirtyInfo is a dirty bitmap.
type dirtyInfo struct {
	Name         string `json:"name"`
	Recording    bool   `json:"recording"`
	Busy         bool   `json:"busy"`
	Inconsistent bool   `json:"inconsistent"`
}

// guestDisk is a disk that can be taken.
type guestDisk struct {
	key, name  string
	device     string
	node       string
	driver     string
	file       string
	files      []string // of all its links, as far as QEMU names them by paths
	sizeBytes  int64
	persistent bool // bitmaps outlive QEMU
	bitmaps    []bitmap
	vmDisk     *vm.Disk // nil if the configuration does not have it
}

// query returns the machine's devices.
func (s *session) query(ctx context.Context) ([]blockInfo, error) {
	var list []blockInfo
	return list, s.Run(ctx, "query-block", nil, &list)
}

// isDisk reports if a device is a disk with content of its own: no CD, floppy or
// firmware, nothing that cannot change.
func (b *blockInfo) isDisk() bool {
	return b.Inserted != nil && b.Inserted.Image != nil && !b.Removable && !b.Inserted.ReadOnly && b.QDev != "" && !strings.HasPrefix(b.QDev, "/machine/system.flash")
}

// key returns what QEMU's user calls the device: its id, or that of its drive.
func (b *blockInfo) key() string {
	rest, named := strings.CutPrefix(b.QDev, "/machine/peripheral/")
	switch {
	case named:
		rest, _, _ = strings.Cut(rest, "/")
		return rest
	case !strings.Contains(b.QDev, "/"):
		return b.QDev
	case b.Device != "":
		return b.Device
	}
	return strings.Trim(strings.NewReplacer("/machine/", "", "/", "-", "[", "", "]", "").Replace(b.QDev), "-")
}

// guestDisks returns the disks that the request wants.
func (s *session) guestDisks(ctx context.Context, r *snapshot.Request) ([]*guestDisk, error) {
	list, err := s.query(ctx)
	if err != nil {
		return nil, err
	}
	var all, taken []*guestDisk
	for i := range list {
		b := &list[i]
		if !b.isDisk() {
			if b.Inserted != nil {
				s.detail(fmt.Sprintf("%s %s is not a disk that can change: not taken", b.Device, b.QDev))
			}
			continue
		}
		d := b.disk()
		if !d.rename(b.Inserted.Image, r) {
			continue // another disk was named
		}
		all = append(all, d)
	}
	keys := map[string]bool{}
	for _, d := range all {
		if keys[d.key] {
			return nil, fmt.Errorf("two disks are called %q: %w; give the devices ids", d.key, disk.ErrUnsupported)
		}
		keys[d.key] = true
		if r.Wanted(d.key) {
			taken = append(taken, d)
		}
	}
	if err := missing(r, all); err != nil {
		return nil, err
	}
	for _, d := range taken {
		if err := d.check(); err != nil {
			return nil, fmt.Errorf("%s: %w", d.key, err)
		}
		if r.Opened == nil {
			continue
		}
		if err := r.Opened(d.key, d.files); err != nil {
			return nil, err
		}
	}
	return taken, nil
}

func (b *blockInfo) disk() *guestDisk {
	in := b.Inserted
	d := &guestDisk{key: b.key(), device: b.QDev, node: in.Node, driver: in.Driver, file: in.File, sizeBytes: in.Image.Size}
	d.name = d.file
	var q struct {
		Compat string `json:"compat"`
	}
	// Of qcow2 alone, and other formats have other fields here.
	d.persistent = in.Driver == "qcow2" && json.Unmarshal(in.Image.Specific.Data, &q) == nil && q.Compat != "0.10"
	d.bitmaps = ourBitmaps(in.Bitmaps)
	return d
}

// rename gives a disk the key that the operator knows: that of the disk of the
// configuration with the same file. It reports if the disk belongs to what the
// request names.
func (d *guestDisk) rename(im *imageInfo, r *snapshot.Request) bool {
	files := im.files()
	d.files = slices.DeleteFunc(slices.Clone(files), func(f string) bool { return !filepath.IsAbs(f) })
	switch {
	case r.VM != nil:
		for i := range r.VM.Disks {
			v := &r.VM.Disks[i]
			if sameAny(files, v.Path) || sameAny(files, v.TopPath) {
				d.key, d.name, d.vmDisk = v.Key, v.File.Written, v
				break
			}
		}
	case r.Path != "":
		if !sameAny(files, r.Path) {
			return false
		}
		d.key = loneKey
	}
	return true
}

// files returns the files of the chain, and of extents.
func (im *imageInfo) files() []string {
	var files []string
	for n := 0; im != nil && n < maxChain; im, n = im.Backing, n+1 {
		files = append(files, im.File)
		var x struct {
			Extents []struct {
				File string `json:"filename"`
			} `json:"extents"`
		}
		if json.Unmarshal(im.Specific.Data, &x) == nil { // only vmdk has them
			for _, e := range x.Extents {
				files = append(files, e.File)
			}
		}
	}
	return files
}

func sameAny(files []string, path string) bool {
	want, err := os.Stat(path)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(files, func(f string) bool {
		st, err := os.Stat(f)
		return filepath.IsAbs(f) && err == nil && os.SameFile(st, want)
	})
}

// missing fails if the running machine lacks a disk that was asked for.
func missing(r *snapshot.Request, have []*guestDisk) error {
	has := func(key string) bool {
		return slices.ContainsFunc(have, func(d *guestDisk) bool { return d.key == key })
	}
	keys := slices.Clone(r.Disks)
	if r.VM != nil {
		for _, d := range r.VM.Disks {
			if r.Wanted(d.Key) {
				keys = append(keys, d.Key)
			}
		}
	}
	var errs []error
	for _, key := range keys {
		if !has(key) {
			errs = append(errs, fmt.Errorf("the running machine has no disk %s: %w", key, fs.ErrNotExist))
		}
	}
	switch {
	case len(errs) > 0:
		return errors.Join(errs...)
	case len(have) == 0:
		return fmt.Errorf("the running machine has no disk that can be taken: %w", fs.ErrNotExist)
	}
	return nil
}

func (d *guestDisk) check() error {
	switch {
	case d.sizeBytes <= 0 || d.sizeBytes%disk.SectorSize != 0 || d.sizeBytes > disk.MaxSize:
		return fmt.Errorf("%d bytes are not whole sectors, or too many: %w", d.sizeBytes, disk.ErrUnsupported)
	case strings.HasPrefix(d.node, nodePrefix) || strings.HasPrefix(filepath.Base(d.file), tempPrefix):
		return inUse("node %s is an overlay of a backup that did not end; see vmstream snapshot list", d.node)
	}
	return nil
}

// scratchDir returns where the scratch file or overlay of a disk goes.
func (d *guestDisk) scratchDir(opt Options) (string, error) {
	if opt.Scratch != "" {
		return opt.Scratch, nil
	}
	if !filepath.IsAbs(d.file) || strings.HasPrefix(d.file, "/dev/") {
		return "", fmt.Errorf("%s: beside %q there is no place for a file; name a directory with --scratch: %w", d.key, d.file, disk.ErrUnsupported)
	}
	return filepath.Dir(d.file), nil
}
