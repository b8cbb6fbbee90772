// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vm/snapshot"
	"github.com/vmstream/vmstream/vmdk"
)

// maxEntries is how many further entries of a disk data base are kept: no
// product writes more than a few.
const maxEntries = 32

// record describes a disk for the opening record.
func record(d *snapshot.Disk, file string) stream.DiskRecord {
	info := &d.Info
	r := stream.DiskRecord{
		Key: d.Key, File: file, Mode: d.Mode,
		Adapter: info.Adapter, Geometry: info.Geometry, HWVersion: info.HWVersion, UUID: info.UUID,
		Source: stream.SourceRecord{Kind: info.Kind, Path: absolute(d.Path), Name: d.Name},
	}
	if r.Adapter == "" {
		r.Adapter = d.Adapter
	}
	r.Adapter = descriptorAdapter(r.Adapter)
	if !plain(r.UUID) {
		r.UUID = ""
	}
	if r.HWVersion == "" || !plain(r.HWVersion) {
		r.HWVersion = "4" // what every product still in use accepts
	}
	if r.Geometry == (vmdk.Geometry{}) {
		r.Geometry = vmdk.GeometryFor(r.Adapter, info.SizeBytes/disk.SectorSize)
	}
	if info.CID != 0 {
		r.Source.CID = stream.CIDString(info.CID)
	}
	for _, e := range info.DDB {
		if keepEntry(e.Key) && plain(e.Key+e.Value) && len(r.DDB) < maxEntries {
			r.DDB = append(r.DDB, e)
		}
	}
	return r
}

// descriptorAdapter returns the adapter type that a descriptor uses for an
// adapter: products write one of four words there, whatever the controller.
func descriptorAdapter(adapter string) string {
	switch adapter {
	case "ide", "buslogic", "lsilogic", "legacyESX":
		return adapter
	case "sata":
		return "ide"
	}
	return vmdk.DefaultAdapter
}

// plain reports if s is fit for a line of a descriptor.
func plain(s string) bool {
	return utf8.ValidString(s) && len(s) < 1024 && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == '"' || r == 0x7f })
}

// keepEntry reports if an entry of the disk data base describes the disk, and
// not how or where its source keeps it.
func keepEntry(key string) bool {
	key = strings.ToLower(key)
	for _, p := range []string{
		"ddb.adaptertype", "ddb.geometry.cylinders", "ddb.geometry.heads", "ddb.geometry.sectors",
		"ddb.uuid", "ddb.longcontentid", "ddb.virtualhwversion", "ddb.nativedeltabytes", "ddb.iofilters",
		"ddb.sidecars", "ddb.objectparenturi", "ddb.encoding",
	} {
		if key == p || strings.HasPrefix(key, "ddb.uuid.") {
			return false
		}
	}
	return true
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return strings.ToValidUTF8(abs, "_")
	}
	return path
}
