// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Keys of the disk data base that a new disk gets.
const (
	ddbPrefix          = "ddb."
	ddbAdapterType     = "ddb.adapterType"
	ddbCylinders       = "ddb.geometry.cylinders"
	ddbHeads           = "ddb.geometry.heads"
	ddbSectors         = "ddb.geometry.sectors"
	ddbLongContentID   = "ddb.longContentID"
	ddbThinProvisioned = "ddb.thinProvisioned"
	ddbToolsVersion    = "ddb.toolsVersion"
	ddbUUID            = "ddb.uuid"
	ddbHWVersion       = "ddb.virtualHWVersion"
)

const (
	// DefaultAdapter is the adapter type of a disk for which none is known.
	DefaultAdapter = "lsilogic"

	// defaultHWVersion is what every product still in use accepts.
	defaultHWVersion = "4"
)

// newCID returns a random content id that means nothing special.
func newCID() uint32 {
	for {
		var b [4]byte
		_, _ = rand.Read(b[:]) // never fails, see crypto/rand
		if id := binary.LittleEndian.Uint32(b[:]); id != 0 && id != NoParent && id != Unwritten {
			return id
		}
	}
}

// contentIDs returns CID and longContentID of the new disk. The last 8 digits
// of the long one are the short one in disks by ESX and Workstation.
func (s *CreateSpec) contentIDs() (cid uint32, long string, err error) {
	cid, long = s.CID, s.LongContentID
	if long != "" {
		if b, err := hex.DecodeString(long); err != nil || len(b) != 16 {
			return 0, "", fmt.Errorf("long content id %q: not 32 hexadecimal digits: %w", long, fs.ErrInvalid)
		}
		if cid == 0 {
			tail, _ := strconv.ParseUint(long[24:], 16, 32)
			cid = uint32(tail)
		}
	}
	if cid == NoParent || cid == Unwritten {
		return 0, "", fmt.Errorf("content id %08x is reserved: %w", cid, fs.ErrInvalid)
	}
	if cid == 0 {
		cid = newCID()
	}
	if long == "" {
		var b [12]byte
		_, _ = rand.Read(b[:])
		long = fmt.Sprintf("%x%08x", b, cid)
	}
	return cid, long, nil
}

// descriptor returns the descriptor of the new disk.
func (s *CreateSpec) descriptor(createType string, extents []Extent) (*Descriptor, error) {
	cid, long, err := s.contentIDs()
	if err != nil {
		return nil, err
	}
	d := &Descriptor{
		Version: 1, Encoding: "UTF-8", CID: cid, ParentCID: NoParent,
		CreateType: createType, Extents: extents, DDB: s.dataBase(long),
	}
	if !utf8.ValidString(s.Name) {
		d.Encoding = "" // a name as bytes; we do not know what they mean
	}
	return d, nil
}

// dataBase returns the disk data base: what the spec's fields say, then the
// entries of s.DDB that no field speaks about.
func (s *CreateSpec) dataBase(long string) []Entry {
	given := Descriptor{DDB: s.DDB}
	pick := func(field, key, otherwise string) string {
		if field != "" {
			return field
		}
		if v := given.DDBValue(key); v != "" {
			return v
		}
		return otherwise
	}
	adapter := pick(s.Adapter, ddbAdapterType, DefaultAdapter)
	own := []Entry{{ddbAdapterType, adapter}}
	own = append(own, s.geometry(&given, adapter)...)
	own = append(own, Entry{ddbLongContentID, long})
	if s.ThinProvisioned && s.Format == FormatVMFS {
		own = append(own, Entry{ddbThinProvisioned, "1"})
	}
	if v := pick(s.ToolsVersion, ddbToolsVersion, ""); v != "" {
		own = append(own, Entry{ddbToolsVersion, v})
	}
	if v := pick(s.UUID, ddbUUID, ""); v != "" {
		own = append(own, Entry{ddbUUID, v})
	}
	own = append(own, Entry{ddbHWVersion, pick(s.HWVersion, ddbHWVersion, defaultHWVersion)})
	for _, e := range s.DDB {
		// How the source was allocated says nothing about the new disk.
		taken := strings.EqualFold(e.Key, ddbThinProvisioned)
		if !taken && !slices.ContainsFunc(own, func(o Entry) bool { return strings.EqualFold(o.Key, e.Key) }) {
			own = append(own, e)
		}
	}
	return own
}

// geometry returns the three entries of the geometry: as given by the field,
// else as stored with the source, else computed.
func (s *CreateSpec) geometry(given *Descriptor, adapter string) []Entry {
	if !s.Geometry.IsZero() {
		return s.Geometry.entries()
	}
	stored := []Entry{
		{ddbCylinders, given.DDBValue(ddbCylinders)},
		{ddbHeads, given.DDBValue(ddbHeads)},
		{ddbSectors, given.DDBValue(ddbSectors)},
	}
	if !slices.ContainsFunc(stored, func(e Entry) bool { return e.Value == "" }) {
		return stored
	}
	return GeometryFor(adapter, s.sectors()).entries()
}
