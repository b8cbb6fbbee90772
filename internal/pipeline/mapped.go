// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/scsi"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vm/snapshot"
	"github.com/vmstream/vmstream/vmdk"
	"github.com/vmstream/vmstream/vmfs"
)

// MappedLUNs opens the LUNs of raw device mappings.
type MappedLUNs struct {
	// Named are the devices, or images of them, that somebody has named for mappings, by
	// the base names of descriptors or of mapping files.
	Named map[string]string

	// LUNs lists the LUNs of this machine, of which the one with a mapping's id is taken if
	// none was named. nil: there are none.
	LUNs func() ([]scsi.LUN, error)

	Warn func(string)
}

// mappingSuffix is what a mapping file is called by, behind the name of its descriptor.
var mappingSuffix = regexp.MustCompile(`(?i)-rdmp?\.vmdk$`)

// named returns the device that was named for a file.
func (m *MappedLUNs) named(name string) string {
	base := filepath.Base(name)
	if d := m.Named[base]; d != "" {
		return d
	}
	return m.Named[mappingSuffix.ReplaceAllString(base, ".vmdk")]
}

// Open opens the LUN of a mapping on a VMFS volume, as [vmfs.Tree.MapDevices] wants it.
func (m *MappedLUNs) Open(name string, s *vmfs.Stat) (disk.RawFile, error) {
	device := m.named(name)
	if device == "" {
		l, err := m.find(s.RDM)
		if err != nil {
			return nil, fmt.Errorf("it maps the LUN %v: %w; say with --rdm %s=DEVICE which device or image of it that is", s.RDM, err, filepath.Base(name))
		}
		device = l.Node
	}
	return m.open(device)
}

func (m *MappedLUNs) open(device string) (disk.RawFile, error) {
	f, err := WithUnmapped(disk.OS(), m.Warn).Open(device)
	if err != nil {
		return nil, err
	}
	return lunFile{f}, nil
}

// openOr opens what was named for a mapping file, and anything else by open.
func (m *MappedLUNs) openOr(name string, open func(string) (disk.RawFile, error)) (disk.RawFile, error) {
	if mappingSuffix.MatchString(name) {
		if device := m.named(name); device != "" {
			return m.open(device)
		}
	}
	return open(name)
}

// lunFile is a LUN, or an image that stands for it.
type lunFile struct{ disk.RawFile }

var _ disk.Mapping = lunFile{}

func (lunFile) Device() bool { return true }
func (lunFile) MapsDevice()  {}

// find finds the LUN with the id of a mapping. Several paths to it are one LUN.
func (m *MappedLUNs) find(id *vmfs.DiskID) (*scsi.LUN, error) {
	if m.LUNs == nil || id == nil {
		return nil, scsi.ErrNoDevice
	}
	all, err := m.LUNs()
	if err != nil {
		return nil, err
	}
	var found *scsi.LUN
	for i := range all {
		l := &all[i]
		switch {
		case l.Type != scsi.TypeDisk || l.Node == "" || !l.IsESX(l.Model, id.ID):
		case found == nil || found.State != "running" && l.ID == found.ID:
			found = l
		case l.ID != found.ID:
			return nil, fmt.Errorf("%s and %s both are called so: %w", found.Node, l.Node, scsi.ErrAmbiguous)
		}
	}
	if found == nil {
		return nil, scsi.ErrNoDevice
	}
	return found, nil
}

// Tree returns the operating system's files, in which what somebody has named a device
// for opens as that. A descriptor that was copied off a volume can be read so.
func (m *MappedLUNs) Tree() disk.Tree { return &namedTree{WithUnmapped(disk.OS(), m.Warn), m} }

type namedTree struct {
	disk.Tree
	m *MappedLUNs
}

// Open opens what was named for a mapping file, but a descriptor as what it is.
func (t *namedTree) Open(name string) (disk.RawFile, error) {
	return t.m.openOr(name, t.Tree.Open)
}

func (t *namedTree) OpenDir(name string) (disk.Directory, error) {
	d, err := t.Tree.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &namedDirectory{d, t}, nil
}

type namedDirectory struct {
	disk.Directory
	t *namedTree
}

func (d *namedDirectory) Open(name string) (disk.RawFile, error) {
	return d.t.m.openOr(name, d.Directory.Open)
}

// Modes of raw device mappings.
const (
	mappedVirtual  = "virtual"
	mappedPhysical = "physical"
)

// mappingOf tells of which LUN a disk is the content, nil if it is no mapping.
func mappingOf(tree disk.Tree, d *snapshot.Disk) *stream.MappingRecord {
	path, mode := "", mappedVirtual
	if n := len(d.Info.Links); n > 0 {
		for _, x := range d.Info.Links[n-1].Extents {
			if x.Type == vmdk.ExtentVMFSRDM || d.Info.Links[n-1].Kind == vmdk.KindDevice {
				path = x.Path
			}
		}
		kind := strings.ToLower(d.Info.Links[n-1].CreateType)
		if kind == strings.ToLower(vmdk.TypeRDMPhysical) || kind == "vmfsrdmp" || strings.HasSuffix(strings.ToLower(path), "-rdmp.vmdk") {
			mode = mappedPhysical
		}
	}
	if path == "" {
		return nil
	}
	r := &stream.MappingRecord{Mode: mode}
	st, err := tree.Stat(path)
	if err != nil {
		return r
	}
	s, ok := st.Sys().(*vmfs.Stat)
	switch {
	case ok && s.RDM != nil:
		r.Vendor, r.Model, r.Revision = cleanText(s.RDM.Vendor), cleanText(s.RDM.Model), cleanText(s.RDM.Revision)
		r.LUN, r.IDType, r.ID = s.RDM.LUN, s.RDM.Type, s.RDM.Hex()
	case d.Info.Links[len(d.Info.Links)-1].Kind == vmdk.KindDevice: // a device that nobody maps
		return nil
	}
	return r
}

func cleanText(s string) string { return strings.ToValidUTF8(s, "_") }

// ErrNotMapped says that a LUN cannot be mapped: it has no id that ESX would know it by.
var ErrNotMapped = errors.New("has neither an id nor a serial number")

// DiskIDOf returns what a mapping of a LUN has.
func DiskIDOf(l *scsi.LUN) (*vmfs.DiskID, error) {
	kind, id := l.ESX(l.Model)
	if kind == 0 {
		return nil, fmt.Errorf("%v: %w", l.Address, ErrNotMapped)
	}
	return &vmfs.DiskID{
		Type: kind, LUN: uint16(min(l.Address.LUN, 1<<16-1)), Vendor: l.Vendor, Model: l.Model, Revision: l.Revision, ID: id, //nolint:gosec // bounded
	}, nil
}
