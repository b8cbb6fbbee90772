// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"strconv"
	"strings"
)

// Kinds of disks without a create type; see [Info].
const (
	KindRaw    = "raw"    // a raw file
	KindDevice = "device" // a block device
	KindRedo   = "redo"   // a redo log of ESX 2.x, found by its name
)

// Info describes an open disk.
type Info struct {
	// Kind says what the named file is: its create type, such as
	// "monolithicSparse", or one of KindRaw, KindDevice and KindRedo.
	Kind       string
	CreateType string // as the descriptor of the top link has it, or ""
	SizeBytes  int64  // capacity
	CID        uint32 // of the top link; 0 without a descriptor
	ParentCID  uint32 // of the top link; NoParent without a parent or descriptor

	// The entries of the disk data base are those of the topmost link that has
	// them. DDB has all entries of all links, each key once.
	Adapter       string
	Geometry      Geometry // as stored, never computed
	BIOSGeometry  Geometry // as stored, where it differs
	UUID          string
	LongContentID string // of the top link
	HWVersion     string
	DDB           []Entry

	Links []LinkInfo // the top link first
	Files []string   // every file that was opened, each once
}

// LinkInfo describes a link of a chain.
type LinkInfo struct {
	Path               string // the file that was opened for the link
	Kind               string // as in Info
	CreateType         string
	CID, ParentCID     uint32
	ParentFileNameHint string
	SizeBytes          int64
	Extents            []ExtentInfo
}

// HasParent reports if the link needs a parent.
func (l *LinkInfo) HasParent() bool { return l.ParentCID != NoParent || l.Kind == KindRedo }

// ExtentInfo describes an extent of a link.
type ExtentInfo struct {
	Path        string // "" if nothing is stored
	Type        string // ExtentFlat and so on
	SizeBytes   int64  // of the disk
	OffsetBytes int64  // where a flat extent begins in its file
	FileBytes   int64  // length of the file
	GrainBytes  int64  // 0 for extents without grains
	Compressed  bool
}

// describe collects the info of a chain, the top link first.
func describe(links []*Link) Info {
	top := links[0].info
	info := Info{
		Kind: top.Kind, CreateType: top.CreateType, SizeBytes: top.SizeBytes,
		CID: top.CID, ParentCID: top.ParentCID,
	}
	seen, files := map[string]bool{}, map[string]bool{}
	for _, l := range links {
		info.Links = append(info.Links, l.info)
		info.addFiles(l.info, files)
		if l.descriptor == nil {
			continue
		}
		for _, e := range l.descriptor.DDB {
			if key := strings.ToLower(e.Key); !seen[key] {
				seen[key] = true
				info.DDB = append(info.DDB, e)
			}
		}
	}
	ddb := Descriptor{DDB: info.DDB}
	info.Adapter = ddb.DDBValue("ddb.adapterType")
	info.UUID = ddb.DDBValue("ddb.uuid")
	info.HWVersion = ddb.DDBValue("ddb.virtualHWVersion")
	info.Geometry = storedGeometry(&ddb, "ddb.geometry.cylinders", "ddb.geometry.heads", "ddb.geometry.sectors")
	info.BIOSGeometry = storedGeometry(&ddb, "ddb.geometry.biosCylinders", "ddb.geometry.biosHeads", "ddb.geometry.biosSectors")
	if d := links[0].descriptor; d != nil {
		info.LongContentID = d.DDBValue("ddb.longContentID")
	}
	if c := links[len(links)-1].cowd; info.Geometry.IsZero() && c != nil && c.isRoot() {
		info.Geometry = Geometry{Cylinders: c.cylinders, Heads: c.heads, Sectors: c.spt}
	}
	return info
}

func (info *Info) addFiles(l LinkInfo, seen map[string]bool) {
	add := func(path string) {
		if path != "" && !seen[path] {
			seen[path] = true
			info.Files = append(info.Files, path)
		}
	}
	add(l.Path)
	for _, e := range l.Extents {
		add(e.Path)
	}
}

// storedGeometry returns the zero Geometry unless all three are plain numbers.
func storedGeometry(d *Descriptor, cylinders, heads, sectors string) Geometry {
	var n [3]uint32
	for i, key := range []string{cylinders, heads, sectors} {
		v, err := strconv.ParseUint(d.DDBValue(key), 10, 32)
		if err != nil {
			return Geometry{}
		}
		n[i] = uint32(v)
	}
	return Geometry{Cylinders: n[0], Heads: n[1], Sectors: n[2]}
}
