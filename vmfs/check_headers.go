// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import "fmt"

// headers compares what is told in several places.
func (c *check) headers() {
	f, h := c.fs, c.fs.header
	bad := func(off int64, format string, args ...any) {
		c.tell(BadHeader, false, "", headerAt+off, format, args...)
	}
	if f.sbc.total > 0 && h.SubBlockBytes != f.sbc.bytes {
		bad(0xD9, "the header says that sub-blocks have %d bytes, .sbc.sf has them with %d", h.SubBlockBytes, f.sbc.bytes)
	}
	if uint64(h.fdcOffset) != f.fdc.offset || uint64(h.fdcClusters) != f.fdc.perGroup {
		bad(0xD1, "the header says that .fdc.sf has groups of %d clusters from %d on, its own header %d from %d on", h.fdcClusters, h.fdcOffset, f.fdc.perGroup, f.fdc.offset)
	}
	for _, m := range f.vol.members {
		d := &f.vol.devices[m.device]
		at := m.part.OffsetBytes + lvmHeaderAt
		told := func(note bool, off int64, detail string) {
			c.add(Problem{Kind: BadHeader, Note: note, Device: d.Name, Offset: at + off, Detail: detail})
		}
		if m.lvm.SizeBytes > uint64(m.part.SizeBytes) {
			told(false, 0x5E, "the LVM says that the partition is longer than it is")
		}
		if m.lvm.counted < m.lvm.PEs { // only with LVM6, which counts in two places
			told(true, 0x6A, fmt.Sprintf("the LVM counts %d physical extents, the volume has %d on this device", m.lvm.counted, m.lvm.PEs))
		}
		if m.lvm.State != 1 {
			told(true, 0x200, "the volume was taken for a copy by a host, and was to get, or got, a new signature")
		}
		if !m.lvm.LockedBy.IsZero() {
			told(true, 0xA2, "the LVM's lock of the device is held by, or was left by, host "+m.lvm.LockedBy.String())
		}
	}
}

// heartbeats looks at all slots.
func (c *check) heartbeats() {
	f := c.fs
	for s, err := range f.allSlots() {
		switch {
		case err != nil:
			c.damage(AboutHeartbeat, "", err)
		case s.InUse:
			c.slots = append(c.slots, s)
			c.sum.HostsInUse++
			journal := ""
			if s.Journal != 0 {
				journal = ", and has a journal, which may hold changes that are not in place yet"
			}
			c.tell(AboutHeartbeat, true, "", int64(s.Address), "slot %d is in use by host %v %s%s", s.Index, s.Owner, s.IP, journal)
		}
	}
}

// lock tells of a lock that is not free.
func (c *check) lock(path string, l *Lock, at int64) {
	if l.Mode == Unlocked {
		return
	}
	if s, ok := Held(l, c.slots); ok {
		c.tell(AboutLock, true, path, at, "locked (%v) by host %v", l.Mode, s.Owner)
		return
	}
	c.tell(AboutLock, true, path, at, "the lock (%v) of host %v was left: the host does not use the volume any more", l.Mode, l.Owner)
}
