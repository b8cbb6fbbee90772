// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"fmt"
	"strconv"
	"strings"
)

// Geometry is the disk geometry (C/H/S) that a BIOS and old guests see.
type Geometry struct {
	Cylinders uint32 `json:"cylinders"`
	Heads     uint32 `json:"heads"`
	Sectors   uint32 `json:"sectors"` // per track
}

// String returns the geometry as «cylinders/heads/sectors».
func (g Geometry) String() string { return fmt.Sprintf("%d/%d/%d", g.Cylinders, g.Heads, g.Sectors) }

// IsZero reports if no geometry is given.
func (g Geometry) IsZero() bool { return g == Geometry{} }

// GeometryFor returns the geometry that VMware products give a new disk of
// this many sectors behind an adapter of the type that ddb.adapterType names.
//
//   - ide: 16 heads, 63 sectors, at most 16383 cylinders (technical note 1.1
//     and disks seen). sata disks follow it too: ATA's own geometry ends there.
//   - buslogic, lsilogic, lsisas1068, pvscsi, legacyESX: the rule of the
//     BusLogic BIOS, 64/32 below 1 GiB, 128/32 below 2 GiB, 255/63 from there.
//     nvme, which has no geometry of its own, and adapters not named here take
//     this rule as well, since it is what a BIOS assumes for large disks.
//
// Cylinders are rounded down, but there is at least one. The geometry of an
// existing disk is stored with it and must be kept, never computed anew.
func GeometryFor(adapter string, sectors int64) Geometry {
	g := Geometry{Heads: 255, Sectors: 63}
	limit := int64(1)<<32 - 1
	switch strings.ToLower(adapter) {
	case "ide", "sata":
		g.Heads, limit = 16, 16383
	default:
		switch {
		case sectors < 1<<21:
			g.Heads, g.Sectors = 64, 32
		case sectors < 1<<22:
			g.Heads, g.Sectors = 128, 32
		}
	}
	perCylinder := int64(g.Heads) * int64(g.Sectors)
	g.Cylinders = uint32(max(1, min(sectors/perCylinder, limit)))
	return g
}

// Offsets in a master boot record: four entries of 16 bytes, then 55 AA.
const (
	mbrTable     = 446
	mbrEntrySize = 16
	mbrSignature = 510
	mbrTypeField = 4 // in an entry; 0 is an unused entry
	mbrEndHead   = 5 // in an entry
	mbrTypeGPT   = 0xee
)

// MBRGeometry returns the heads and sectors per track with which a disk was
// partitioned, from the first sector of the disk: what the end-head of the
// first partition that ends at a cylinder boundary implies (63, 127 and 254 as
// a BusLogic BIOS reads it, 15 as on IDE). Cylinders is 0. It returns false if
// there is no master boot record or nothing can be concluded. The answer
// explains a geometry that does not match; it is no reason to change one.
func MBRGeometry(first512 []byte) (Geometry, bool) {
	if len(first512) < mbrSignature+2 || first512[mbrSignature] != 0x55 || first512[mbrSignature+1] != 0xaa {
		return Geometry{}, false
	}
	for i := range 4 {
		e := first512[mbrTable+i*mbrEntrySize:][:mbrEntrySize]
		// The one entry of a GPT disk says nothing: its end is a constant.
		if e[mbrTypeField] == 0 || e[mbrTypeField] == mbrTypeGPT {
			continue
		}
		switch e[mbrEndHead] {
		case 15:
			return Geometry{Heads: 16, Sectors: 63}, true
		case 63:
			return Geometry{Heads: 64, Sectors: 32}, true
		case 127:
			return Geometry{Heads: 128, Sectors: 32}, true
		case 254:
			return Geometry{Heads: 255, Sectors: 63}, true
		}
	}
	return Geometry{}, false
}

// entries returns the geometry as disk data base entries.
func (g Geometry) entries() []Entry {
	n := func(v uint32) string { return strconv.FormatUint(uint64(v), 10) }
	return []Entry{
		{ddbCylinders, n(g.Cylinders)},
		{ddbHeads, n(g.Heads)},
		{ddbSectors, n(g.Sectors)},
	}
}
