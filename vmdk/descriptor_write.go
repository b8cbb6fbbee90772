// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// Marshal returns the text of the descriptor in the layout that VMware
// products, QEMU and libvmdk all read: sections in VMware's order under
// VMware's comments, LF, CID before parentCID, no blank line in front of an
// extent line (QEMU would count that extent twice), an offset on FLAT extents
// and on no others. An extent of another type whose offset is not 0 is refused,
// and so is any value that the text could not carry: there is no way to quote
// a quotation mark or a line break. Offsets and lengths of extents are in
// sectors.
func (d *Descriptor) Marshal() ([]byte, error) {
	m := &marshaller{}
	m.header(d)
	m.extents(d.Extents)
	m.changeTracking(d.Header)
	m.dataBase(d.DDB)
	if m.err == nil && m.b.Len() > MaxDescriptorBytes {
		m.fail("size", fmt.Sprintf("%d bytes, readers take %d", m.b.Len(), MaxDescriptorBytes))
	}
	if m.err != nil {
		return nil, m.err
	}
	return m.b.Bytes(), nil
}

// marshaller collects the text and the first error.
type marshaller struct {
	b   bytes.Buffer
	err error
}

func (m *marshaller) fail(field, detail string) {
	if m.err == nil {
		m.err = &disk.FormatError{Format: descriptorFormat, Field: field, Offset: -1, Err: disk.ErrUnsupported, Detail: detail}
	}
}

func (m *marshaller) header(d *Descriptor) {
	if d.Version < 1 || d.Version > 3 {
		m.fail("version", fmt.Sprintf("%d, known are 1 to 3", d.Version))
	}
	if d.CreateType == "" {
		m.fail("createType", "is missing")
	}
	fmt.Fprintf(&m.b, "# Disk DescriptorFile\nversion=%d\n", d.Version)
	m.optional("encoding", d.Encoding)
	fmt.Fprintf(&m.b, "CID=%08x\nparentCID=%08x\n", d.CID, d.ParentCID)
	m.optional("createType", d.CreateType)
	m.optional("parentFileNameHint", d.ParentFileNameHint)
	m.checkHeaderKeys(d.Header)
	for _, e := range headerOnly(d.Header) {
		m.setting(e, "=")
	}
}

// checkHeaderKeys refuses keys that a reader would take for something else.
func (m *marshaller) checkHeaderKeys(h []Entry) {
	seen := map[string]bool{
		"version": true, "encoding": true, "cid": true, "parentcid": true,
		"createtype": true, "parentfilenamehint": true, // these have fields of their own
	}
	for _, e := range h {
		key := strings.ToLower(e.Key)
		switch {
		case seen[key]:
			m.fail("header key "+e.Key, "is given twice")
		case isDDBKey(key):
			m.fail("header key "+e.Key, "belongs to the disk data base")
		}
		seen[key] = true
	}
}

func (m *marshaller) optional(key, value string) {
	if value != "" {
		m.setting(Entry{key, value}, "=")
	}
}

// VMware puts changeTrackPath below the extents, under a comment of its own.
// It is moved there if it is the last key, which keeps the order of the keys.
const changeTrackPath = "changeTrackPath"

func headerOnly(h []Entry) []Entry {
	if n := len(h); n > 0 && h[n-1].Key == changeTrackPath {
		return h[:n-1]
	}
	return h
}

func (m *marshaller) changeTracking(h []Entry) {
	if len(headerOnly(h)) == len(h) {
		return
	}
	m.b.WriteString("\n# Change Tracking File\n")
	m.setting(h[len(h)-1], "=")
}

func (m *marshaller) extents(extents []Extent) {
	if n := len(extents); n == 0 || n > MaxExtents {
		m.fail("extents", fmt.Sprintf("there are %d, possible are 1 to %d", n, MaxExtents))
	}
	m.b.WriteString("\n# Extent description\n")
	var sectors int64
	for i, e := range extents {
		field := fmt.Sprintf("extent %d", i)
		m.extent(field, e)
		if e.Sectors <= 0 || e.Sectors > maxDiskSectors-sectors {
			m.fail(field, fmt.Sprintf("%d sectors; a disk has 1 to %d", e.Sectors, int64(maxDiskSectors)))
			return
		}
		sectors += e.Sectors
	}
}

func (m *marshaller) extent(field string, e Extent) {
	switch e.Access {
	case AccessRW, AccessRO, AccessNone:
	default:
		m.fail(field, fmt.Sprintf("access %q", e.Access))
	}
	fmt.Fprintf(&m.b, "%s %d ", e.Access, e.Sectors)
	switch e.Type {
	case ExtentZero:
		if e.Name != "" || e.OffsetSectors != 0 {
			m.fail(field, "a ZERO extent has neither a file nor an offset")
		}
		m.b.WriteString(e.Type + "\n")
		return
	case ExtentFlat:
		if e.OffsetSectors < 0 || e.OffsetSectors > maxFileSectors-e.Sectors {
			m.fail(field, fmt.Sprintf("offset of %d sectors", e.OffsetSectors))
		}
	case ExtentSparse, ExtentVMFS, ExtentVMFSSparse, ExtentSESparse, ExtentVMFSRDM, ExtentVMFSRaw:
		if e.OffsetSectors != 0 {
			m.fail(field, fmt.Sprintf("type %s cannot have an offset (%d sectors)", e.Type, e.OffsetSectors))
		}
	default:
		m.fail(field, fmt.Sprintf("type %q", e.Type))
	}
	if n := len(e.Name); n == 0 || n > maxNameBytes {
		m.fail(field, fmt.Sprintf("file name of %d bytes, possible are 1 to %d", n, maxNameBytes))
	}
	m.value(field+" file name", e.Name)
	fmt.Fprintf(&m.b, "%s \"%s\"", e.Type, e.Name)
	if e.Type == ExtentFlat {
		fmt.Fprintf(&m.b, " %d", e.OffsetSectors)
	}
	m.b.WriteByte('\n')
}

func (m *marshaller) dataBase(ddb []Entry) {
	m.b.WriteString("\n# The Disk Data Base\n#DDB\n\n")
	for _, e := range ddb {
		if !isDDBKey(e.Key) {
			m.fail("disk data base key "+e.Key, `does not start with "ddb."`)
		}
		m.setting(e, " = ")
	}
}

func isDDBKey(key string) bool {
	return len(key) >= len(ddbPrefix) && strings.EqualFold(key[:len(ddbPrefix)], ddbPrefix)
}

func (m *marshaller) setting(e Entry, equals string) {
	if !isKey(e.Key) {
		m.fail("key", fmt.Sprintf("%q is no key", e.Key))
	}
	if n := len(e.Key) + len(equals) + len(e.Value) + 2; n > maxLineBytes {
		m.fail(e.Key, fmt.Sprintf("a line of %d bytes, readers take %d", n, maxLineBytes))
	}
	m.value(e.Key, e.Value)
	m.b.WriteString(e.Key + equals + `"` + e.Value + "\"\n")
}

// value checks that v can stand between quotation marks.
func (m *marshaller) value(field, v string) {
	if i := strings.IndexAny(v, "\"\r\n\x00"); i >= 0 {
		m.fail(field, fmt.Sprintf("%q has a character that a descriptor cannot carry: %q", v, v[i]))
	}
}
