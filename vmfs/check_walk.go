// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// folder is a directory that is to be looked at.
type folder struct {
	n      *inode
	parent uint32
	path   string
	depth  int
}

// walk looks at all files that are in a directory.
func (c *check) walk() {
	root, err := c.fs.readDescriptor(rootAddress)
	if err != nil {
		c.unread(".", err)
		return
	}
	c.claimDescriptor(rootAddress, ".")
	c.file(root, ".")
	if !root.stat.isDir() {
		c.tell(BadDirectory, false, ".", root.stat.Offset, "the root is a %v", root.stat.Type)
		return
	}
	pending := []folder{{root, rootAddress, ".", 0}}
	for len(pending) > 0 && c.ctx.Err() == nil {
		last := pending[len(pending)-1]
		pending = append(pending[:len(pending)-1], c.folder(last)...)
	}
}

// folder looks at a directory and the files in it. It returns the directories there.
func (c *check) folder(d folder) []folder {
	all, err := c.fs.readDirectory(d.n)
	if err != nil {
		c.unread(d.path, err)
		return nil
	}
	at := d.n.stat.Offset
	for _, err := range all.errs {
		c.damage(BadDirectory, d.path, err)
	}
	for _, name := range all.again {
		c.tell(BadDirectory, false, d.path, at, "the same entry %q is there twice: a removal was interrupted", name)
	}
	if self := d.n.stat.Address; all.self != self {
		c.tell(BadParent, false, d.path, at, "the entry . leads to %08x, the directory is %08x", all.self, self)
	}
	if all.parent != d.parent {
		c.tell(BadParent, false, d.path, at, "the entry .. leads to %08x, the directory is in %08x", all.parent, d.parent)
	}
	var below []folder
	links, system := uint32(2), uint32(0)
	for _, e := range all.entries {
		if c.ctx.Err() != nil {
			return nil
		}
		name := path.Join(d.path, e.name)
		n, fresh := c.entry(e, d.n.stat.Address, name)
		switch {
		case e.kind == Directory:
			links++
		case n != nil && n.stat.isDir():
			system++ // .sdd.sf: if hosts count it is not known
		}
		if n == nil || !fresh {
			continue
		}
		c.file(n, name)
		if !n.stat.isDir() {
			continue
		}
		if d.depth == maxDirectoryDepth {
			c.unread(name, n.layout.corrupt("directory", 0, "is %d directories deep", d.depth))
			continue
		}
		below = append(below, folder{n, d.n.stat.Address, name, d.depth + 1})
	}
	if got := d.n.stat.Links; d.n.stat.Type == Directory && got != links && got != links+system {
		c.tell(BadLinks, false, d.path, at, "the directory has a link count of %d, and with its directories it should be %d", got, links)
	}
	return below
}

// entry reads what an entry of a directory leads to, nil if that is no good. fresh is
// false if another entry leads there, too.
func (c *check) entry(e dirEntry, parent uint32, name string) (n *inode, fresh bool) {
	n, err := c.fs.entryDescriptor(e, parent)
	if err != nil {
		c.unread(name, err)
		if _, err := c.fs.readDescriptor(e.addr); err != nil { // else it may be another's
			c.claimDescriptor(e.addr, name)
		}
		return nil, false
	}
	return n, c.claimDescriptor(e.addr, name)
}

// claimDescriptor takes a file descriptor, and reports if it was free so far.
func (c *check) claimDescriptor(addr uint32, name string) bool {
	id := descriptorID(addr)
	if _, err := c.fs.fdc.position(id); err != nil || kind(addr&7) != kindDescriptor {
		return false
	}
	return c.claim(c.fdc, id.cluster*c.fdc.res.perCluster+id.index, name)
}

// file looks at a file: its lock, its addresses, its counts.
func (c *check) file(n *inode, name string) {
	s := &n.stat
	if !c.naming {
		switch {
		case s.isDir():
			c.sum.Directories++
		case s.Type == Symlink:
			c.sum.Symlinks++
		case s.Type == RawDevice:
			c.sum.Mappings++
		case s.Type == System:
			c.sum.System++
		default:
			c.sum.Files++
		}
	}
	c.lock(name, &s.Lock, s.Offset)
	if !s.isDir() && s.Links != 1 {
		c.tell(BadLinks, false, name, s.Offset, "has a link count of %d, files have 1", s.Links)
	}
	if n.rdmErr != nil {
		c.unread(name, n.rdmErr)
	}
	u := &usage{c: c, n: n, name: name, whole: true}
	if s.Type != RawDevice && !n.layout.resident {
		u.all()
	}
	if !u.whole {
		return
	}
	if u.units != s.Units {
		c.tell(BadCount, false, name, s.Offset, "says that it has %d blocks, its addresses are %d", s.Units, u.units)
	}
	if u.tbz != s.TBZ && !c.fs.header.wide() { // there, one address may stand for several
		c.tell(BadCount, false, name, s.Offset, "says that %d blocks are to be zeroed, its addresses say %d", s.TBZ, u.tbz)
	}
}

// usage goes through the addresses of a file.
type usage struct {
	c          *check
	n          *inode
	name       string
	units, tbz uint64
	whole      bool // all pointer blocks could be read
	last       address
}

func (u *usage) all() {
	l := &u.n.layout
	levels := 0
	switch l.zla {
	case zlaPointers, zlaPointers2:
		levels = 1
	case zlaDouble:
		levels = 2
	}
	covers := int64(1)
	for range levels {
		covers *= u.c.fs.pointers
	}
	for i, a := range l.addrs {
		u.tree(a, levels, int64(i)*covers, covers)
	}
}

// tree takes what an address leads to. index is the first of covers units that it
// stands for.
func (u *usage) tree(a address, levels int, index, covers int64) {
	if a == 0 {
		return
	}
	l := &u.n.layout
	off := max(index*l.unit, 0) // for messages
	if levels == 0 || a.kind() == kindLarge {
		u.unit(a, off)
		return
	}
	c := u.c
	block, err := l.pointerBlock(a, off, 0)
	if err != nil {
		u.whole = false
		c.unread(u.name, err)
	}
	t := map[kind]*checkTable{kindPointers: c.pbc, kindPointers2: c.pb2, kindSubBlock: c.sbc}[a.kind()]
	if t == nil {
		return
	}
	id := c.fs.header.resource(a)
	if _, err := t.res.position(id); err != nil {
		return // told above
	}
	if fresh := c.claim(t, id.cluster*t.res.perCluster+id.index, u.name); !fresh || block == nil {
		u.whole = u.whole && fresh
		return // who goes there a second time counts everything twice
	}
	covers /= c.fs.pointers
	for i, a := range block {
		u.tree(a, levels-1, index+int64(i)*covers, covers)
	}
	if c.ctx.Err() != nil {
		u.whole = false
	}
}

// unit takes a block or a sub-block.
func (u *usage) unit(a address, off int64) {
	c, h := u.c, u.c.fs.header
	u.units++
	s, err := u.n.layout.data(a, off, 0)
	if err != nil {
		c.damage(BadAddress, u.name, err)
		return
	}
	if s.where == ToBeZero {
		u.tbz++
	}
	if a.kind() == kindSubBlock {
		id := h.resource(a)
		c.claim(c.sbc, id.cluster*c.sbc.res.perCluster+id.index, u.name)
		return
	}
	if a.kind() == kindLarge && a == u.last { // one large block, and as many addresses as it has small ones
		return
	}
	u.last = a
	at, length, _ := h.block(a)
	first, n := uint64(at>>h.blockBits()), uint64(length>>h.blockBits())
	if first+n > c.blocks.total {
		c.tell(BadAddress, false, u.name, u.n.stat.Offset, "byte %d: file block %d, .fbb.sf has %d", off, first, c.blocks.total)
		return
	}
	for i := range n {
		c.claim(c.blocks, first+i, u.name)
	}
}

// nameCollisions goes through everything again, and tells which files have the same.
func (c *check) nameCollisions() {
	c.naming = true
	for _, t := range c.tables {
		clear(t.used)
	}
	c.walk()
	for _, addr := range c.orphans {
		c.orphan(addr)
	}
	c.naming = false
	byNames := map[string][]claimKey{}
	for key, names := range c.collisions {
		text := fmt.Sprintf("%q", names)
		if len(names) == maxNames {
			text += " and perhaps more"
		}
		byNames[key.table.noun+"\x00"+text] = append(byNames[key.table.noun+"\x00"+text], key)
	}
	for _, id := range slices.Sorted(maps.Keys(byNames)) {
		keys := byNames[id]
		slices.SortFunc(keys, func(a, b claimKey) int { return int(int64(a.number) - int64(b.number)) })
		_, names, _ := strings.Cut(id, "\x00")
		var numbers []uint64
		for _, k := range keys {
			numbers = append(numbers, k.number)
		}
		c.tell(SharedResource, false, keys[0].table.res.name, -1, "%s: in use by %s", describeNumbers(keys[0].table.noun, numbers), names)
	}
}

// describeNumbers writes ascending numbers with ranges.
func describeNumbers(noun string, all []uint64) string {
	var parts []string
	for i := 0; i < len(all); {
		k := i
		for k+1 < len(all) && all[k+1] == all[k]+1 {
			k++
		}
		if parts = append(parts, describeRange(all[i], all[k])); len(parts) == 20 && k+1 < len(all) {
			parts = append(parts, "…")
			break
		}
		i = k + 1
	}
	if len(all) > 1 {
		noun += "s"
	}
	return noun + " " + strings.Join(parts, ", ")
}

func describeRange(first, last uint64) string {
	if first == last {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, last)
}
