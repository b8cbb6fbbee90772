// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

// spec says what a disk in the stage becomes.
func (s *restore) spec(d *restoredDisk) vmdk.CreateSpec {
	spec := specOf(d.rec)
	spec.Format, spec.Dir = s.opt.Format, s.stage.dir
	switch {
	case s.opt.To != "":
		spec.Name = filepath.Base(s.opt.To)
		if s.opt.Format == FormatSame {
			spec.Format = formatForFile(s.opt.To)
		}
	case s.opt.Format == FormatSame:
		spec.Format, spec.Name = sameFormat(d.rec)
		spec.ThinProvisioned = spec.Format == vmdk.FormatVMFS && isThin(d.rec)
	case s.opt.Format == vmdk.FormatRaw:
		spec.Name = strings.TrimSuffix(d.rec.File, ".vmdk") + ".raw"
	}
	d.name = spec.Name
	return spec
}

// specOf describes a new disk with what a record says of the old one.
func specOf(rec *stream.DiskRecord) vmdk.CreateSpec {
	return vmdk.CreateSpec{
		Name: rec.File, SizeBytes: rec.CapacityBytes, Adapter: rec.Adapter, Geometry: rec.Geometry,
		UUID: rec.UUID, HWVersion: rec.HWVersion, DDB: rec.DDB, CID: contentID(rec.CID),
	}
}

func contentID(s string) uint32 {
	var cid uint32
	if _, err := fmt.Sscanf(s, "%08x", &cid); err != nil {
		return 0 // a new one
	}
	return cid
}

func isThin(rec *stream.DiskRecord) bool {
	for _, e := range rec.DDB {
		if strings.EqualFold(e.Key, "ddb.thinProvisioned") {
			return e.Value == "1"
		}
	}
	return false
}

// formatForFile is what a file that was named is made into if nobody says.
func formatForFile(path string) vmdk.Format {
	if strings.EqualFold(filepath.Ext(path), ".vmdk") {
		return vmdk.FormatSparse
	}
	return vmdk.FormatRaw
}

// sameFormat returns the format nearest to what the disk was, and the name of
// its descriptor or single file.
func sameFormat(rec *stream.DiskRecord) (vmdk.Format, string) {
	stem := strings.TrimSuffix(rec.File, ".vmdk")
	switch rec.Source.Kind {
	case vmdk.KindRaw, vmdk.KindRedo: // below a redo log of ESX 2.x lies a raw disk
		name := filepath.Base(rec.Source.Path)
		for strings.EqualFold(filepath.Ext(name), ".redo") {
			name = name[:len(name)-len(".redo")]
		}
		if !stream.ValidName(name) {
			name = stem + ".raw"
		}
		return vmdk.FormatRaw, name
	case vmdk.KindDevice:
		return vmdk.FormatRaw, stem + ".raw"
	case vmdk.TypeMonolithicFlat, vmdk.TypeTwoGbFlat, "2GbMaxExtentFlat", "fullDevice", "partitionedDevice":
		return vmdk.FormatFlat, rec.File
	case vmdk.TypeTwoGbSparse, "2GbMaxExtentSparse":
		return vmdk.FormatSplit, rec.File
	case vmdk.TypeStreamOptimized:
		return vmdk.FormatStream, rec.File
	case vmdk.TypeMonolithicSparse, "custom":
		return vmdk.FormatSparse, rec.File
	}
	return vmdk.FormatVMFS, rec.File // what is left are the kinds of ESX
}
