// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import "fmt"

// bitset has a bit for each resource of a table.
type bitset []uint64

func newBitset(n uint64) bitset    { return make(bitset, (n+63)/64) }
func (b bitset) has(n uint64) bool { return b[n/64]>>(n%64)&1 == 1 }
func (b bitset) set(n uint64)      { b[n/64] |= 1 << (n % 64) }
func (k claimKey) String() string  { return fmt.Sprintf("%s %d", k.table.noun, k.number) }
func (t *checkTable) clusters() uint64 {
	return (t.res.total + t.res.perCluster - 1) / t.res.perCluster
}

// maxChecked bounds the resources of a table: as many bits are 32 MiB. Products have
// a quarter of it at most.
const maxChecked = 1 << 28

// checkTable is a system file with what files have of it.
type checkTable struct {
	noun  string // what is in it
	res   *resources
	lock  uint32 // type of the locks of its clusters
	total uint64
	used  bitset
	sum   TableSummary
}

// claimKey is a resource.
type claimKey struct {
	table  *checkTable
	number uint64
}

// openTables prepares the tables of the volume.
func (c *check) openTables() error {
	f := c.fs
	blocks, err := f.blockTable()
	if err != nil {
		return err
	}
	c.collisions = map[claimKey][]string{}
	all := []struct {
		to   **checkTable
		noun string
		res  *resources
		lock uint32
	}{
		{&c.blocks, "file block", blocks, lockTypeFBB},
		{&c.fdc, "file descriptor", f.fdc, lockTypeFDC},
		{&c.sbc, "sub-block", f.sbc, lockTypeSBC},
		{&c.pbc, "pointer block", f.pbc, lockTypePBC},
		{&c.pb2, "secondary pointer block", f.pb2, lockTypePB2},
	}
	for _, a := range all {
		if a.res == nil || a.res.total == 0 {
			continue
		}
		if a.res.total > maxChecked {
			return a.res.file.corrupt(a.res.name+" header", 0, "%d resources, no volume needs more than %d", a.res.total, maxChecked)
		}
		t := &checkTable{noun: a.noun, res: a.res, lock: a.lock, total: a.res.total, used: newBitset(a.res.total)}
		t.sum = TableSummary{Name: a.res.name, Total: t.total}
		*a.to = t
		c.tables = append(c.tables, t)
	}
	if room := uint64(f.vol.size >> f.header.blockBits()); c.blocks.total > room {
		c.tell(BadHeader, false, ".fbb.sf", c.blocks.res.file.at, "has %d file blocks, the volume has room for %d", c.blocks.total, room)
	}
	return nil
}

// blockTable opens the bitmap of file blocks, which are not in its file.
func (f *FS) blockTable() (*resources, error) {
	const name = ".fbb.sf"
	file, err := f.systemFile(name, numberFBB)
	if err != nil {
		return nil, err
	}
	if f.header.wide() { // a table of large blocks and one of small ones: the bits are not public
		r := &resources{name: name, file: file, total: uint64(f.vol.size >> f.header.blockBits()), perCluster: 1 << f.header.LargeBlockBits}
		return r, nil
	}
	return f.openBitmap(name, file)
}

// claim takes a resource for a file, and reports if it was free so far.
func (c *check) claim(t *checkTable, n uint64, path string) bool {
	key := claimKey{t, n}
	if c.naming {
		if names, ok := c.collisions[key]; ok && len(names) < maxNames {
			c.collisions[key] = append(names, path)
		}
	}
	if !t.used.has(n) {
		t.used.set(n)
		if !c.naming {
			t.sum.Used++
		}
		return true
	}
	if !c.naming {
		t.sum.Shared++
		if _, known := c.collisions[key]; !known && len(c.collisions) < maxNamed {
			c.collisions[key] = nil
		} else if !known {
			c.tell(SharedResource, false, path, -1, "%v is that of another file, too", key)
		}
	}
	return false
}

// maxNames is how many files are named that have the same resource.
const maxNames = 16
