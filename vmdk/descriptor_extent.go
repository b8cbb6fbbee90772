// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"strconv"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// extent parses what follows the access word of an extent line.
func (p *descriptorParser) extent(access, s string) error {
	if len(p.d.Extents) == MaxExtents {
		return p.fail(disk.ErrUnsupported, "more than %d extents", MaxExtents)
	}
	e := Extent{Access: access}
	word, rest := cutBlank(s)
	sectors, err := parseDecimal(word)
	if err != nil || sectors == 0 {
		return p.fail(disk.ErrCorrupt, "an extent of %.40q sectors", word)
	}
	if sectors > maxDiskSectors || p.sectors+sectors > maxDiskSectors {
		return p.fail(disk.ErrUnsupported, "the extents have more than %d sectors", int64(maxDiskSectors))
	}
	e.Sectors = sectors
	p.sectors += sectors
	word, rest = cutBlank(rest)
	e.Type = strings.ToUpper(word)
	if !isKey(e.Type) {
		return p.fail(disk.ErrCorrupt, "%.40q is no type of an extent", word)
	}
	if rest == "" {
		if e.Type != ExtentZero {
			return p.fail(disk.ErrCorrupt, "the %s extent names no file", e.Type)
		}
		p.d.Extents = append(p.d.Extents, e)
		return nil
	}
	if err := p.extentFile(&e, rest); err != nil {
		return err
	}
	p.d.Extents = append(p.d.Extents, e)
	return nil
}

// extentFile parses the quoted name, the offset, and skips what Windows hosts
// write behind the offset of a device.
func (p *descriptorParser) extentFile(e *Extent, s string) error {
	if s[0] != '"' {
		return p.fail(disk.ErrCorrupt, "the extent's file name is not quoted")
	}
	name, rest, found := strings.Cut(s[1:], `"`)
	switch {
	case !found:
		return p.fail(disk.ErrCorrupt, "the extent's file name has no closing quote")
	case len(name) > maxNameBytes:
		return p.fail(disk.ErrCorrupt, "the extent's file name is %d bytes long, at most %d are allowed", len(name), maxNameBytes)
	case name == "" && e.Type != ExtentZero:
		return p.fail(disk.ErrCorrupt, "the %s extent's file name is empty", e.Type)
	case rest != "" && rest[0] != ' ' && rest[0] != '\t':
		return p.fail(disk.ErrCorrupt, "%.40q behind the extent's file name", rest)
	}
	e.Name = name
	word, _ := cutBlank(strings.TrimLeft(rest, " \t"))
	if word == "" {
		return nil
	}
	offset, err := parseDecimal(word)
	if err != nil || offset > maxFileSectors-e.Sectors {
		return p.fail(disk.ErrCorrupt, "the extent's offset is %.40q", word)
	}
	if offset != 0 && e.Type != ExtentFlat {
		return p.fail(disk.ErrCorrupt, "a %s extent with the offset %d: only FLAT extents have one", e.Type, offset)
	}
	e.OffsetSectors, e.HasOffset = offset, true
	return nil
}

// maxFileSectors keeps offsets in bytes inside an int64.
const maxFileSectors = (1<<63 - 1) / disk.SectorSize

// parseDecimal takes digits only: no sign, no blank, no underscore.
func parseDecimal(s string) (int64, error) {
	if s == "" || s[0] < '0' || s[0] > '9' {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseInt(s, 10, 64)
}

func isKey(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return s != ""
}
