// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"context"
	"fmt"
)

// ProblemKind says what is wrong, in a word.
type ProblemKind string

// What Check finds.
const (
	BadHeader      ProblemKind = "header"      // a header says what others do not
	Unreadable     ProblemKind = "unreadable"  // a file, a directory or a pointer block
	BadDirectory   ProblemKind = "directory"   // entries that are no good
	BadParent      ProblemKind = "parent"      // the entries . and ..
	BadLinks       ProblemKind = "links"       // link counts
	BadAddress     ProblemKind = "address"     // leads where nothing is
	BadCount       ProblemKind = "count"       // blocks of a file, free resources of a cluster
	BadCluster     ProblemKind = "cluster"     // header of a cluster of resources
	SharedResource ProblemKind = "shared"      // several files have one
	Unallocated    ProblemKind = "unallocated" // a file has it, the bitmap says that it is free
	Lost           ProblemKind = "lost"        // the bitmap says that it is in use, no file has it
	Orphan         ProblemKind = "orphan"      // a file that is in no directory
	AboutLock      ProblemKind = "lock"        // held, or left by a host that is gone: a note
	AboutHeartbeat ProblemKind = "heartbeat"   // of a host that uses the volume, or crashed: a note; or damaged
)

// Problem is something that Check has found.
type Problem struct {
	Kind ProblemKind `json:"kind"`
	// Note is set for what is no damage: a lock that is held or was left, or what
	// cannot be judged.
	Note bool `json:"note,omitempty"`
	// Path is that of the file, as io/fs has it, or the name of a system file.
	Path   string `json:"path,omitempty"`
	Device string `json:"device,omitempty"`
	// Offset in the device of what is wrong. 0 if Device is empty.
	Offset int64  `json:"offset,omitempty"`
	Detail string `json:"detail"`
}

// String returns all of it in a line.
func (p Problem) String() string {
	s := string(p.Kind) + ": "
	if p.Path != "" {
		s += fmt.Sprintf("%q: ", p.Path)
	}
	s += p.Detail
	if p.Device != "" {
		s += fmt.Sprintf(" (%s, offset %#x)", p.Device, p.Offset)
	}
	return s
}

// Summary is what Check has looked at, and how much it has found.
type Summary struct {
	Directories int `json:"directories"`
	Files       int `json:"files"`
	Symlinks    int `json:"symlinks"`
	Mappings    int `json:"rdms"`
	System      int `json:"system_files"`
	// Unread counts files, directories and pointer blocks that could not be read: what
	// these have is not known, so that lost resources are only notes then.
	Unread int            `json:"unread"`
	Tables []TableSummary `json:"tables"`
	// Bitmaps is false on VMFS-6: it is not public where these have their bits. What
	// files use is compared with the counters there, and differences are notes.
	Bitmaps    bool                `json:"bitmaps_checked"`
	HostsInUse int                 `json:"hosts_in_use"` // heartbeats; their hosts may have crashed
	Problems   int                 `json:"problems"`
	Notes      int                 `json:"notes"`
	ByKind     map[ProblemKind]int `json:"by_kind"` // notes, too
}

// TableSummary is about the resources of one system file.
type TableSummary struct {
	Name        string `json:"name"`
	Total       uint64 `json:"total"`
	Used        uint64 `json:"used"` // by what was read
	Free        uint64 `json:"free"` // by the counters of the clusters; file blocks of VMFS-6: that no file has
	Lost        uint64 `json:"lost"`
	Unallocated uint64 `json:"unallocated"`
	Shared      uint64 `json:"shared"`
}

// Bounds of what Check keeps and tells.
const (
	// maxToldOfKind is how many findings of a kind are reported; others are counted.
	maxToldOfKind = 1000
	// maxNamed bounds the shared resources whose files are named, maxOrphans the
	// files without a name whose blocks are looked at.
	maxNamed   = 1000
	maxOrphans = 1 << 16
	// maxDirectoryDepth is far more than a path of ESX can have.
	maxDirectoryDepth = 512
)

// Check reads everything that the volume says of itself, and no content of files, and
// reports what does not fit: on VMFS-3 and VMFS-5 also between the allocation bitmaps
// and what the files have. Nothing is written. Problems come in the order in which
// they are found, at most 1000 of a kind; the summary counts all.
//
// Of a volume that is being written to, Check may report what was true of no moment:
// see [Summary.HostsInUse]. The error is that of the context; damage is no error, nor is
// a device that cannot be read, which is reported as [Unreadable]. Memory is bounded: a
// bit for each resource, and the directory that is being read.
func (f *FS) Check(ctx context.Context, report func(Problem)) (Summary, error) {
	c := &check{
		ctx: ctx, fs: f, report: report,
		sum: Summary{Bitmaps: !f.header.wide(), ByKind: map[ProblemKind]int{}, Tables: []TableSummary{}},
	}
	c.headers()
	c.heartbeats()
	if err := c.openTables(); err != nil {
		c.damage(Unreadable, "", err)
		return c.sum, nil
	}
	c.walk()
	c.bitmaps()
	if len(c.collisions) > 0 && ctx.Err() == nil {
		c.nameCollisions()
	}
	for _, t := range c.tables {
		if t == c.blocks && f.header.wide() {
			t.sum.Free = t.total - t.sum.Used
		}
		c.sum.Tables = append(c.sum.Tables, t.sum)
	}
	if ctx.Err() != nil {
		return c.sum, context.Cause(ctx)
	}
	return c.sum, nil
}

// check is the state of Check.
type check struct {
	ctx    context.Context
	fs     *FS
	report func(Problem)
	sum    Summary
	slots  []Slot // in use

	blocks, fdc, sbc, pbc, pb2 *checkTable
	tables                     []*checkTable // those that the volume has

	orphans    []uint32
	collisions map[claimKey][]string // files that have what several have
	naming     bool                  // the second time: only the names of these are wanted
}

// tell reports a problem; at is an offset in the volume, -1 for none.
func (c *check) tell(kind ProblemKind, note bool, path string, at int64, format string, args ...any) {
	p := Problem{Kind: kind, Note: note, Path: path, Detail: fmt.Sprintf(format, args...)}
	if at >= 0 {
		if r, off, ok := c.fs.vol.find(at); ok {
			p.Device, p.Offset = c.fs.vol.devices[r.device].Name, off
		}
	}
	c.add(p)
}

// damage reports an error, which says where it is.
func (c *check) damage(kind ProblemKind, path string, err error) {
	c.add(Problem{Kind: kind, Path: path, Detail: err.Error()})
}

func (c *check) add(p Problem) {
	if c.naming {
		return
	}
	if p.Note {
		c.sum.Notes++
	} else {
		c.sum.Problems++
	}
	if c.sum.ByKind[p.Kind]++; c.sum.ByKind[p.Kind] <= maxToldOfKind {
		c.report(p)
	}
}

// unread reports what could not be read, and whose resources are unknown therefore.
func (c *check) unread(path string, err error) {
	if !c.naming {
		c.sum.Unread++
	}
	c.damage(Unreadable, path, err)
}
