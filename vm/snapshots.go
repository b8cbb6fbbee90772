// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Snapshots is a parsed .vmsd, the list of a machine's snapshots. It may be
// empty, or behind the disks, where deltas exist: chains tell what is stored,
// not this list.
type Snapshots struct {
	LastUID    int64      // the highest uid ever given out, 0 if absent
	CurrentUID int64      // the snapshot that the machine runs on, 0 if none
	List       []Snapshot // in the order of the file's indices
	Warnings   []string   // what does not fit together, one line each
}

// Snapshot is one snapshot.
type Snapshot struct {
	UID         int64
	ParentUID   int64  // 0 for a root
	DisplayName string // any text: see [SafeName]
	Description string
	Type        string // as written
	File        string // .vmsn with the machine's state, as written, "" if none
	Created     time.Time
	Disks       []SnapshotDisk
}

// SnapshotDisk is a disk as a snapshot froze it.
type SnapshotDisk struct {
	Key  string // such as "scsi0:0"
	File string // the link that the snapshot froze, as written
}

// ParseSnapshots parses a .vmsd, which has the grammar and the limits of
// [ParseConfig]. Empty input is an empty list. Snapshots without a uid are left
// out with a warning. The time is zero where none is noted that makes sense.
func ParseSnapshots(b []byte) (*Snapshots, error) {
	c, err := ParseConfig(b)
	if err != nil {
		return nil, err
	}
	s := &Snapshots{LastUID: c.number("snapshot.lastUID"), CurrentUID: c.number("snapshot.current"), Warnings: c.Warnings()}
	disks := c.snapshotDisks()
	uids := map[int64]int{}
	for _, i := range c.snapshotIndices() {
		snap, ok := c.snapshot(i)
		if !ok {
			s.warn("snapshot%d has no uid: ignored", i)
			continue
		}
		snap.Disks = disks[i]
		if uids[snap.UID]++; uids[snap.UID] == 2 {
			s.warn("uid %d is given to two snapshots", snap.UID)
		}
		s.List = append(s.List, snap)
	}
	if v, ok := c.Get("snapshot.numSnapshots"); ok && v != strconv.Itoa(len(s.List)) {
		s.warn("snapshot.numSnapshots is %q, but there are %d", v, len(s.List))
	}
	for _, snap := range s.List {
		if snap.ParentUID != 0 && (uids[snap.ParentUID] == 0 || snap.ParentUID == snap.UID) {
			s.warn("the parent of snapshot %d, %d, is not in the list", snap.UID, snap.ParentUID)
		}
	}
	if s.CurrentUID != 0 && uids[s.CurrentUID] == 0 {
		s.warn("the current snapshot, %d, is not in the list", s.CurrentUID)
	}
	return s, nil
}

func (s *Snapshots) warn(format string, args ...any) {
	s.Warnings = append(s.Warnings, oneLine(fmt.Sprintf(format, args...)))
}

// number returns a value that is a number above 0, and 0 for anything else.
func (c *Config) number(key string) int64 {
	n, err := strconv.ParseInt(c.value(key), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// snapshotIndices returns the indices that keys have, ascending. They are never
// counted up to numSnapshots, which can be any number.
func (c *Config) snapshotIndices() []int {
	seen := map[int]bool{}
	var list []int
	for key := range c.first {
		if i, _, ok := snapshotKey(key); ok && !seen[i] {
			seen[i] = true
			list = append(list, i)
		}
	}
	slices.Sort(list)
	return list
}

// snapshotKey splits a folded key such as "snapshot12.uid".
func snapshotKey(key string) (index int, field string, ok bool) {
	name, field, ok := strings.Cut(key, ".")
	digits, ok1 := strings.CutPrefix(name, "snapshot")
	index, ok2 := parseNumber(digits)
	return index, field, ok && ok1 && ok2
}

func (c *Config) snapshot(index int) (Snapshot, bool) {
	key := func(field string) string { return "snapshot" + strconv.Itoa(index) + "." + field }
	raw, _ := c.raw(key("displayName"))
	description, _ := c.Get(key("description"))
	s := Snapshot{
		UID: c.number(key("uid")), ParentUID: c.number(key("parent")),
		DisplayName: c.charset.decode(unescapeBar(unescapePercent(raw))), Description: description,
		Type: c.value(key("type")), File: c.value(key("filename")),
		Created: createTime(c.value(key("createTimeHigh")), c.value(key("createTimeLow"))),
	}
	return s, s.UID != 0
}

// createTime joins the two signed halves of microseconds since 1970.
func createTime(high, low string) time.Time {
	h, err1 := strconv.ParseInt(high, 10, 64)
	l, err2 := strconv.ParseInt(low, 10, 64)
	if err1 != nil || err2 != nil || h < 0 || h > math.MaxInt32 || l < math.MinInt32 || l > math.MaxUint32 {
		return time.Time{}
	}
	t := time.UnixMicro(h<<32 | int64(uint32(l))).UTC()
	if t.Year() > 9999 { // JSON cannot write it
		return time.Time{}
	}
	return t
}

// snapshotDisks returns the disks of all snapshots by index, each list in the
// order of the indices of the disks.
func (c *Config) snapshotDisks() map[int][]SnapshotDisk {
	type place struct{ snapshot, disk int }
	var places []place
	for key := range c.first {
		i, field, ok := snapshotKey(key)
		number, isFile := strings.CutSuffix(field, ".filename")
		digits, isDisk := strings.CutPrefix(number, "disk")
		if j, isNumber := parseNumber(digits); ok && isFile && isDisk && isNumber {
			places = append(places, place{i, j})
		}
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Compare(a.disk, b.disk) })
	disks := map[int][]SnapshotDisk{}
	for _, p := range places {
		prefix := fmt.Sprintf("snapshot%d.disk%d.", p.snapshot, p.disk)
		disks[p.snapshot] = append(disks[p.snapshot], SnapshotDisk{Key: fold(c.value(prefix + "node")), File: c.value(prefix + "fileName")})
	}
	return disks
}
