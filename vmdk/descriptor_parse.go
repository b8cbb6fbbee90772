// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// Limits of a descriptor. The first two are the bounds that other readers
// have; the number of extents is what fits in the text with short names,
// because a stream's disk has an extent for every 64 MiB.
const (
	maxDescriptorBytes = 1 << 20
	maxLineBytes       = 64 << 10
	maxNameBytes       = 4096
	maxExtents         = 32768
	maxDiskSectors     = disk.MaxSize / disk.SectorSize
)

const descriptorFormat = "vmdk descriptor"

// ParseDescriptor returns what the text b of a descriptor says. The text ends
// at the first NUL, as that of an embedded descriptor does.
//
// Accepted beyond what writers should produce: blanks around everything, LF or
// CRLF, sections in any order, keywords in either case, comments anywhere, no
// newline at the end. The first line that is neither blank nor a comment has to
// be the version, 1 to 3. CID, parentCID and an extent have to be there. Extent
// types are not judged here, and names are as written.
//
// The grammar is that of "Virtual Disk Format 5.0", "The Descriptor File".
func ParseDescriptor(b []byte) (*Descriptor, error) {
	if len(b) > maxDescriptorBytes {
		return nil, &disk.FormatError{
			Format: descriptorFormat, Field: "length", Offset: -1, Err: disk.ErrCorrupt,
			Detail: fmt.Sprintf("%d bytes, at most %d are allowed", len(b), maxDescriptorBytes),
		}
	}
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	p := descriptorParser{d: &Descriptor{ParentCID: NoParent}, seen: map[string]string{}}
	rest, bom := bytes.CutPrefix(b, []byte("\xef\xbb\xbf"))
	if bom {
		p.offset = 3
	}
	for len(rest) > 0 {
		p.line++
		line, tail, found := bytes.Cut(rest, []byte{'\n'})
		if err := p.parseLine(line); err != nil {
			return nil, err
		}
		p.offset += int64(len(line))
		if found {
			p.offset++
		}
		rest = tail
	}
	return p.finish()
}

type descriptorParser struct {
	d       *Descriptor
	line    int               // from 1
	offset  int64             // of the line, in bytes
	seen    map[string]string // header keys in lower case, to find contradictions
	sectors int64             // sum of the extents
}

func (p *descriptorParser) fail(kind error, format string, args ...any) error {
	return &disk.FormatError{
		Format: descriptorFormat, Field: "line " + strconv.Itoa(p.line), Offset: p.offset,
		Err: kind, Detail: fmt.Sprintf(format, args...),
	}
}

func (p *descriptorParser) parseLine(line []byte) error {
	if len(line) > maxLineBytes {
		return p.fail(disk.ErrCorrupt, "%d bytes long, at most %d are allowed", len(line), maxLineBytes)
	}
	s := strings.Trim(string(line), " \t\r\v\f")
	if s == "" || s[0] == '#' {
		return nil
	}
	word, rest := cutBlank(s)
	if access, ok := accessWord(word); ok && p.d.Version != 0 && !strings.HasPrefix(rest, "=") {
		return p.extent(access, rest)
	}
	return p.setting(s)
}

// cutBlank splits s behind its first word and drops the blanks between.
func cutBlank(s string) (word, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimLeft(s[i:], " \t")
}

func accessWord(s string) (string, bool) {
	for _, a := range []string{AccessRW, AccessRO, AccessNone} {
		if strings.EqualFold(s, a) {
			return a, true
		}
	}
	return "", false
}

func (p *descriptorParser) setting(s string) error {
	key, value, found := strings.Cut(s, "=")
	key = strings.TrimRight(key, " \t")
	if !found || !isKey(key) {
		return p.fail(disk.ErrCorrupt, "%.40q is neither a comment, a setting nor an extent", s)
	}
	value, err := p.value(strings.TrimLeft(value, " \t"))
	if err != nil {
		return err
	}
	lower := strings.ToLower(key)
	if p.d.Version == 0 && lower != "version" {
		return p.fail(disk.ErrCorrupt, "the first setting is %.40q, expected version", key)
	}
	if strings.HasPrefix(lower, "ddb.") {
		p.d.DDB = append(p.d.DDB, Entry{Key: key, Value: value})
		return nil
	}
	if old, ok := p.seen[lower]; ok {
		if old != value {
			return p.fail(disk.ErrCorrupt, "%s is given twice, as %.40q and %.40q", key, old, value)
		}
		return nil
	}
	p.seen[lower] = value
	return p.headerKey(key, lower, value)
}

func (p *descriptorParser) headerKey(key, lower, value string) (err error) {
	d := p.d
	switch lower {
	case "version":
		d.Version, err = strconv.Atoi(value)
		switch {
		case err != nil || d.Version < 1:
			return p.fail(disk.ErrCorrupt, "version %.40q, expected 1, 2 or 3", value)
		case d.Version > 3:
			return p.fail(disk.ErrUnsupported, "version %d, known are 1, 2 and 3", d.Version)
		}
	case "encoding":
		d.Encoding = value
	case "cid":
		d.CID, err = p.contentID(key, value)
	case "parentcid":
		d.ParentCID, err = p.contentID(key, value)
	case "createtype":
		d.CreateType = value
	case "parentfilenamehint":
		d.ParentFileNameHint = value
	default:
		d.Header = append(d.Header, Entry{Key: key, Value: value})
	}
	return err
}

// value removes the quotes. No escape sequence is known to exist.
func (p *descriptorParser) value(s string) (string, error) {
	quoted := strings.HasPrefix(s, `"`)
	if quoted {
		s = s[1:]
		if !strings.HasSuffix(s, `"`) {
			return "", p.fail(disk.ErrCorrupt, "the value has no closing quote")
		}
		s = s[:len(s)-1]
	}
	if strings.Contains(s, `"`) {
		return "", p.fail(disk.ErrCorrupt, "a quote inside the value %.40q", s)
	}
	return s, nil
}

func (p *descriptorParser) contentID(key, value string) (uint32, error) {
	n, err := strconv.ParseUint(value, 16, 32)
	if err != nil || strings.HasPrefix(value, "+") {
		return 0, p.fail(disk.ErrCorrupt, "%s is %.40q, expected 8 hexadecimal digits", key, value)
	}
	return uint32(n), nil
}

// extent parses what follows the access word of an extent line.
func (p *descriptorParser) extent(access, s string) error {
	if len(p.d.Extents) == maxExtents {
		return p.fail(disk.ErrUnsupported, "more than %d extents", maxExtents)
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

// finish checks what only the whole text can tell.
func (p *descriptorParser) finish() (*Descriptor, error) {
	whole := func(field, detail string) error {
		return &disk.FormatError{Format: descriptorFormat, Field: field, Offset: -1, Err: disk.ErrCorrupt, Detail: detail}
	}
	if p.d.Version == 0 {
		return nil, whole("version", "missing, so this is no descriptor")
	}
	for _, key := range []string{"CID", "parentCID"} {
		if _, ok := p.seen[strings.ToLower(key)]; !ok {
			return nil, whole(key, "missing, so the disk's parent cannot be told")
		}
	}
	if len(p.d.Extents) == 0 {
		return nil, whole("extents", "there is none")
	}
	return p.d, nil
}
