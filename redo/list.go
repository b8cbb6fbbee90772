// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"context"
	"errors"
	"io/fs"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// Chain is a disk with its redo logs.
type Chain struct {
	Path     string  // of the top, absolute
	ESX2     bool    // named as ESX 2.x does it: X.REDO
	Levels   []Level // the base first
	Branches []string
	Pending  *Pending // an operation that has not ended; nil if there is none
}

// Level is a level of a disk. Sizes are in bytes.
type Level struct {
	Path          string
	Kind          string // as [vmdk.Info] has it
	CapacityBytes int64

	// DataBytes is what the level stores of the disk, ZeroBytes what it says is
	// zero without storing it: for a redo log, what it changes.
	DataBytes, ZeroBytes int64

	CID       uint32 // 0 without a descriptor
	ParentCID uint32 // vmdk.NoParent without a parent or descriptor

	// LinkID is what Add has noted in the level; 0 if it was made otherwise.
	LinkID uint32

	// Dirty says that the header of an extent asks for a check: its last writer
	// did not close it.
	Dirty bool

	Files     []string // every file of the level
	FileBytes int64    // their lengths
	DiskBytes int64    // what they take on disk
}

// ChangedShare returns the share of the disk that a redo log changes, 0 to 1.
func (l *Level) ChangedShare() float64 {
	if l.CapacityBytes == 0 {
		return 0
	}
	return float64(l.DataBytes+l.ZeroBytes) / float64(l.CapacityBytes)
}

// List tells about all levels of the disk of which path is one. Tables are
// read, data is not, and nothing is changed. Branches has the children of the
// last level if there are several, or if one does not fit.
func List(ctx context.Context, path string, o Options) (*Chain, error) {
	o.fill()
	var j *journal
	if o.Tree == nil { // nothing is under way where nothing can be changed
		var err error
		if j, err = journalOf(path, &o); err != nil {
			return nil, err
		}
	}
	c, err := findChain(path, &o)
	if err != nil {
		return nil, err
	}
	d, err := c.open(&o)
	if err != nil {
		return nil, err
	}
	if err := d.Close(); err != nil {
		return nil, err
	}
	out := &Chain{Path: c.top().path, ESX2: c.esx2, Branches: c.branches}
	if j != nil {
		out.Pending = j.pending()
	}
	for i := range c.levels {
		l, err := c.describe(ctx, i, &o)
		if err != nil {
			return nil, err
		}
		out.Levels = append(out.Levels, *l)
	}
	return out, nil
}

// openLink opens a level alone.
func (c *chain) openLink(i int, o *Options) (*vmdk.Link, error) {
	v := o.vmdk()
	switch {
	case c.esx2 && i == 0:
		v.Format = vmdk.SourceRaw
	default:
		v.Format = vmdk.SourceVMDK
	}
	return vmdk.OpenLink(c.levels[i].path, v)
}

func (c *chain) describe(ctx context.Context, i int, o *Options) (l *Level, err error) {
	link, err := c.openLink(i, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, link.Close()) }()
	info := link.Info()
	l = &Level{Path: info.Path, Kind: info.Kind, CapacityBytes: info.SizeBytes, CID: info.CID, ParentCID: info.ParentCID}
	for r, err := range link.Runs(0, link.Size()) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		switch r.Kind {
		case disk.Data:
			l.DataBytes += r.Length
		case disk.Zero:
			l.ZeroBytes += r.Length
		}
	}
	seen := map[string]bool{}
	for _, p := range append([]string{info.Path}, extentPaths(info)...) {
		if seen[p] {
			continue
		}
		seen[p] = true
		st, err := o.place().Stat(p)
		if err != nil {
			return nil, err
		}
		l.Files = append(l.Files, p)
		l.FileBytes += st.Size()
		l.DiskBytes += diskBytes(st)
	}
	for _, e := range info.Extents {
		if e.GrainBytes == 0 {
			continue // a flat one: its bytes are a guest's
		}
		s, err := o.place().extentState(e.Path)
		if err != nil {
			return nil, err
		}
		l.Dirty = l.Dirty || s.Dirty()
		if s.LinkID != 0 {
			l.LinkID = s.LinkID
		}
	}
	return l, nil
}

// diskBytes returns what a file takes where it lies.
func diskBytes(st fs.FileInfo) int64 {
	if s, ok := st.Sys().(interface{ AllocatedBytes() int64 }); ok { // of another tree
		return s.AllocatedBytes()
	}
	return allocatedBytes(st)
}

func extentPaths(info vmdk.LinkInfo) []string {
	var paths []string
	for _, e := range info.Extents {
		if e.Path != "" {
			paths = append(paths, e.Path)
		}
	}
	return paths
}
