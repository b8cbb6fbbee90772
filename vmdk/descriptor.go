// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import "strings"

// NoParent is the parentCID of a disk that has no parent.
const NoParent uint32 = 0xffffffff

// Extent access words.
const (
	AccessRW   = "RW"
	AccessRO   = "RDONLY"
	AccessNone = "NOACCESS"
)

// Extent types, the keyword of an extent line.
const (
	ExtentFlat       = "FLAT"
	ExtentSparse     = "SPARSE"
	ExtentZero       = "ZERO"
	ExtentVMFS       = "VMFS"
	ExtentVMFSSparse = "VMFSSPARSE"
	ExtentSESparse   = "SESPARSE"
	ExtentVMFSRDM    = "VMFSRDM"
	ExtentVMFSRaw    = "VMFSRAW"
)

// Create types that we write or treat specially; readers decide by the
// extent lines.
const (
	TypeMonolithicSparse = "monolithicSparse"
	TypeMonolithicFlat   = "monolithicFlat"
	TypeTwoGbSparse      = "twoGbMaxExtentSparse"
	TypeTwoGbFlat        = "twoGbMaxExtentFlat"
	TypeStreamOptimized  = "streamOptimized"
	TypeVMFS             = "vmfs"
	TypeVMFSSparse       = "vmfsSparse"
	TypeSESparse         = "seSparse"
	TypeRDM              = "vmfsRawDeviceMap"            // in virtual compatibility mode
	TypeRDMPhysical      = "vmfsPassthroughRawDeviceMap" // in physical compatibility mode
)

// Entry is a key and its value, quotes removed.
type Entry struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Extent is one extent line of a descriptor.
type Extent struct {
	Access        string // AccessRW, AccessRO or AccessNone
	Sectors       int64  // length
	Type          string // ExtentFlat and so on
	Name          string // file name as written; empty for ExtentZero
	OffsetSectors int64  // where the extent starts in its file
	HasOffset     bool   // the line states an offset, be it 0
}

// Descriptor is the text that describes a virtual disk.
type Descriptor struct {
	Version            int
	Encoding           string
	CID                uint32
	ParentCID          uint32 // NoParent if there is none
	CreateType         string
	ParentFileNameHint string
	Extents            []Extent
	Header             []Entry // other header keys, as found, in order
	DDB                []Entry // disk data base, keys with their "ddb." prefix, in order
}

// DDBValue returns the value of a disk data base key such as
// "ddb.adapterType", compared without case, and "" if there is none.
func (d *Descriptor) DDBValue(key string) string {
	for _, e := range d.DDB {
		if strings.EqualFold(e.Key, key) {
			return e.Value
		}
	}
	return ""
}

// Sectors returns the capacity: the sum of the extents.
func (d *Descriptor) Sectors() int64 {
	var n int64
	for _, e := range d.Extents {
		n += e.Sectors
	}
	return n
}
