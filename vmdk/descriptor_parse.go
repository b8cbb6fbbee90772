// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// Limits of a descriptor, which hold for those we write too. QEMU reads the
// first 1 MiB and takes it for all; the number of extents is what fits in that
// with short names.
const (
	MaxDescriptorBytes = 1 << 20
	MaxExtents         = 32768
)

const (
	maxLineBytes   = 64 << 10
	maxNameBytes   = 4096
	maxDiskSectors = disk.MaxSize / disk.SectorSize
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
	if len(b) > MaxDescriptorBytes {
		return nil, &disk.FormatError{
			Format: descriptorFormat, Field: "length", Offset: -1, Err: disk.ErrCorrupt,
			Detail: fmt.Sprintf("%d bytes, at most %d are allowed", len(b), MaxDescriptorBytes),
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
