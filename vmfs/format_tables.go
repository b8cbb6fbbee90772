// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

// tables writes the resource files: headers, and the headers of the clusters.
func (p *plan) tables() error {
	for _, t := range p.all {
		base := int64(t.first) * p.o.BlockBytes
		n := t.fileBytes()
		if t == p.sbc { // what sub-blocks have is nobody's
			n = int64(t.offset)
		}
		if err := p.m.zero(base, n); err != nil {
			return err
		}
		if err := p.m.write(t.header(), base); err != nil {
			return err
		}
		for g := range t.groups() {
			at := base + int64(t.offset+g*t.groupBytes)
			if err := p.m.write(t.group(g, at), at); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *newTable) header() fields {
	b := make(fields, resourceHeaderLen)
	for i, v := range []uint64{t.perCluster, t.perGroup, t.offset, uint64(t.bytes), t.groupBytes, t.total, t.groups()} {
		b.put32(i*4, uint32(v))
	}
	return b
}

// group makes the headers of a group's clusters; at is where they lie in the volume.
func (t *newTable) group(g uint64, at int64) fields {
	b := make(fields, t.perGroup*t.headerBytes)
	for i := range t.perGroup {
		n := g*t.perGroup + i
		if n >= t.clusters() {
			break
		}
		c := b[i*t.headerBytes:]
		c.putLock(t.lock, at+int64(i*t.headerBytes))
		size := min(t.perCluster, t.total-n*t.perCluster)
		used := min(max(t.used, n*t.perCluster)-n*t.perCluster, size)
		m := c[clusterMeta:]
		m.put32(0, uint32(n))
		m.put32(4, uint32(size))
		m.put32(8, uint32(size-used))
		m.put32(12, uint32(used%t.perCluster))
		for k := used; k < size; k++ {
			m[clusterBitmap+k/8] |= 1 << (k % 8)
		}
	}
	return b
}
