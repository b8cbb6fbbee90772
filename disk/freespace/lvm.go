// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package freespace

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// The layout of LVM2 is described in the documentation of libvslvm and in lvm.conf(5): a
// label in one of the first sectors leads to metadata, which is text.

const (
	lvmMagic    = "\x20LVM2\x20x[5A%r0N*>"
	lvmCRC      = 0xf597a6cf // what checksums begin with
	maxLVMText  = 4 << 20
	maxSegments = 1 << 12
)

func lvmSum(b []byte) uint32 { return ^crc32.Update(^uint32(lvmCRC), crc32.IEEETable, b) }

// logicalVolumes returns the volumes that are on this one alone and in plain pieces. Others
// are left out: they are taken whole.
func logicalVolumes(v *volume) ([]area, error) {
	id, text, err := lvmMetadata(v)
	if err != nil {
		return nil, err
	}
	root, err := parseLVM(text)
	if err != nil {
		return nil, err
	}
	for name, group := range root.sections {
		if group.sections["physical_volumes"] == nil {
			continue
		}
		g := &lvmGroup{v: v, name: name, section: group}
		return g.volumes(id)
	}
	return nil, refuse("its LVM metadata have no group")
}

// lvmMetadata returns the id of a physical volume and the text about its group.
func lvmMetadata(v *volume) (id string, text []byte, err error) {
	b := make([]byte, disk.SectorSize)
	if err := v.read(b, disk.SectorSize); err != nil {
		return "", nil, err
	}
	if le.Uint64(b[8:]) != 1 || lvmSum(b[20:]) != le.Uint32(b[16:]) || string(b[24:32]) != "LVM2 001" {
		return "", nil, refuse("its LVM label is not readable")
	}
	at := int(le.Uint32(b[20:]))
	if at < 32 || at+40 > len(b) {
		return "", nil, refuse("its LVM label is not readable")
	}
	id = string(b[at : at+32])
	lists := b[at+40:]
	for range 2 { // data areas, then those of metadata
		for {
			if len(lists) < 16 {
				return "", nil, refuse("its LVM label has no metadata")
			}
			offset, size := le.Uint64(lists), le.Uint64(lists[8:])
			lists = lists[16:]
			if offset == 0 {
				break
			}
			if text != nil || size == 0 && offset != 0 {
				continue // data areas may have no size
			}
			if t, err := lvmText(v, offset, size); err == nil {
				text = t
			}
		}
	}
	if text == nil {
		return "", nil, refuse("its LVM metadata are not readable")
	}
	return id, text, nil
}

// lvmText reads the text in an area of metadata, where it goes round.
func lvmText(v *volume, offset, size uint64) ([]byte, error) {
	if offset > uint64(v.size()) || size > uint64(v.size())-offset || size < 2*disk.SectorSize {
		return nil, refuse("LVM metadata are behind the end")
	}
	b := make([]byte, disk.SectorSize)
	if err := v.read(b, int64(offset)); err != nil {
		return nil, err
	}
	if string(b[4:20]) != lvmMagic || lvmSum(b[4:]) != le.Uint32(b) || le.Uint32(b[20:]) != 1 || le.Uint64(b[24:]) != offset || le.Uint64(b[32:]) != size {
		return nil, refuse("LVM metadata are not readable")
	}
	at, n, sum := le.Uint64(b[40:]), le.Uint64(b[48:]), le.Uint32(b[56:])
	if at < disk.SectorSize || at >= size || n == 0 || n > maxLVMText || n > size-disk.SectorSize {
		return nil, refuse("LVM metadata have no text")
	}
	text := make([]byte, n)
	first := min(n, size-at)
	if err := v.read(text[:first], int64(offset+at)); err != nil {
		return nil, err
	}
	if err := v.read(text[first:], int64(offset)+disk.SectorSize); err != nil {
		return nil, err
	}
	if lvmSum(text) != sum {
		return nil, refuse("the checksum of LVM metadata is wrong")
	}
	return text, nil
}

// lvmGroup is a volume group.
type lvmGroup struct {
	v       *volume
	name    string
	section *lvmSection
}

func (g *lvmGroup) volumes(id string) ([]area, error) {
	extent := g.section.number("extent_size") * disk.SectorSize
	own, start, count := "", int64(0), int64(0)
	for name, pv := range g.section.sections["physical_volumes"].sections {
		if strings.ReplaceAll(pv.text("id"), "-", "") == id {
			own, start, count = name, pv.number("pe_start")*disk.SectorSize, pv.number("pe_count")
		}
	}
	if own == "" || extent <= 0 || extent > 1<<40 || start <= 0 || count <= 0 || count > g.v.size()/extent || start > g.v.size()-count*extent {
		return nil, refuse("its LVM metadata are about another volume, or do not fit")
	}
	all := g.section.sections["logical_volumes"]
	if all == nil {
		return nil, nil
	}
	origins := map[string]bool{}
	for _, lv := range all.sections {
		for _, s := range lv.sections {
			origins[s.text("origin")] = true
		}
	}
	var names []string
	for name := range all.sections {
		names = append(names, name)
	}
	slices.Sort(names)
	var out []area
	for _, name := range names {
		lv := all.sections[name]
		if !slices.Contains(lv.lists["status"], "VISIBLE") || origins[name] {
			continue // a part of another, or what a snapshot needs
		}
		if a, ok := g.area(name, lv, own, start, extent, count); ok {
			out = append(out, a)
		}
	}
	return out, g.apart(out)
}

// area returns where a volume lies, if it is in plain pieces on this one.
func (g *lvmGroup) area(name string, lv *lvmSection, own string, start, extent, count int64) (area, bool) {
	a := area{name: fmt.Sprintf("LVM %s/%s", g.name, name)}
	n := lv.number("segment_count")
	if n <= 0 || n > maxSegments {
		return a, false
	}
	next := int64(0)
	for i := range n {
		s := lv.sections[fmt.Sprintf("segment%d", i+1)]
		if s == nil || s.text("type") != "striped" || s.number("stripe_count") != 1 {
			return a, false
		}
		stripes, length := s.lists["stripes"], s.number("extent_count")
		if len(stripes) != 2 || stripes[0] != own || s.number("start_extent") != next || length <= 0 || length > count {
			return a, false
		}
		at := number(stripes[1])
		if at < 0 || at > count-length {
			return a, false
		}
		for _, q := range g.v.inside(start+at*extent, length*extent) {
			q.in += next * extent
			a.pieces = append(a.pieces, q)
		}
		next += length
	}
	return a, len(a.pieces) > 0
}

// inside returns where on the disk a range of the volume is.
func (v *volume) inside(off, n int64) []piece {
	var out []piece
	for _, q := range v.area.pieces {
		from, end := max(off, q.in), min(off+n, q.in+q.length)
		if from < end {
			out = append(out, piece{in: from - off, on: q.on + from - q.in, length: end - from})
		}
	}
	return out
}

// apart refuses volumes that overlap.
func (g *lvmGroup) apart(all []area) error {
	var pieces []piece
	for _, a := range all {
		pieces = append(pieces, a.pieces...)
	}
	slices.SortFunc(pieces, func(a, b piece) int { return int(min(max(a.on-b.on, -1), 1)) })
	for i := 1; i < len(pieces); i++ {
		if pieces[i].on < pieces[i-1].on+pieces[i-1].length {
			return refuse("logical volumes of group %s overlap", g.name)
		}
	}
	return nil
}

// lvmSection is a part of the text.
type lvmSection struct {
	sections map[string]*lvmSection
	values   map[string]string
	lists    map[string][]string
}

func (s *lvmSection) text(key string) string  { return s.values[key] }
func (s *lvmSection) number(key string) int64 { return number(s.values[key]) }

// number is a number that is not negative, or -1.
func number(s string) int64 {
	n := int64(0)
	for _, c := range s {
		if c < '0' || c > '9' || n > 1<<50 {
			return -1
		}
		n = 10*n + int64(c-'0')
	}
	if s == "" {
		return -1
	}
	return n
}

// lvmParser reads the text.
type lvmParser struct {
	b     []byte
	count int // of what has been read, to bound it
}

func parseLVM(text []byte) (*lvmSection, error) {
	text, _, _ = bytes.Cut(text, []byte{0})
	p := &lvmParser{b: text}
	s, err := p.section(0)
	if err == nil && len(p.b) > 0 {
		err = refuse("its LVM metadata are not readable")
	}
	return s, err
}

// skip drops blanks and comments.
func (p *lvmParser) skip() {
	for {
		p.b = bytes.TrimLeft(p.b, " \t\r\n")
		if len(p.b) == 0 || p.b[0] != '#' {
			return
		}
		_, p.b, _ = bytes.Cut(p.b, []byte("\n"))
	}
}

// word takes a name, a number or a string in quotes.
func (p *lvmParser) word() (string, bool) {
	p.skip()
	if len(p.b) > 0 && p.b[0] == '"' {
		for i := 1; i < len(p.b); i++ {
			switch p.b[i] {
			case '\\':
				i++
			case '"':
				s := string(p.b[1:i])
				p.b = p.b[i+1:]
				return s, true
			}
		}
		return "", false
	}
	i := bytes.IndexAny(p.b, " \t\r\n={}[],#\"")
	if i < 0 {
		i = len(p.b)
	}
	s := string(p.b[:i])
	p.b = p.b[i:]
	return s, s != ""
}

// take takes a character, if it is the next one.
func (p *lvmParser) take(c byte) bool {
	p.skip()
	if len(p.b) == 0 || p.b[0] != c {
		return false
	}
	p.b = p.b[1:]
	return true
}

func (p *lvmParser) section(depth int) (*lvmSection, error) {
	s := &lvmSection{sections: map[string]*lvmSection{}, values: map[string]string{}, lists: map[string][]string{}}
	bad := func() (*lvmSection, error) { return nil, refuse("its LVM metadata are not readable") }
	for {
		p.skip()
		if len(p.b) == 0 && depth == 0 || depth > 0 && p.take('}') {
			return s, nil
		}
		name, ok := p.word()
		if p.count++; !ok || depth > 8 || p.count > 1<<18 {
			return bad()
		}
		switch {
		case p.take('{'):
			child, err := p.section(depth + 1)
			if err != nil {
				return nil, err
			}
			s.sections[name] = child
		case !p.take('='):
			return bad()
		case p.take('['):
			list := []string{}
			for !p.take(']') {
				w, ok := p.word()
				if p.count++; !ok || p.count > 1<<18 {
					return bad()
				}
				list = append(list, w)
				p.take(',')
			}
			s.lists[name] = list
		default:
			w, ok := p.word()
			if !ok {
				return bad()
			}
			s.values[name] = w
		}
	}
}
