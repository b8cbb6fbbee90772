// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"context"
	"path/filepath"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// DiscardOptions say what is discarded.
type DiscardOptions struct {
	Options

	// Level has to be the top, counted from the base, if it is not 0.
	Level int

	// DryRun checks everything and writes nothing.
	DryRun bool
}

// Discarded is what Discard has removed or, with DryRun, would remove.
type Discarded struct {
	Path    string   // of the level
	Top     string   // of the disk afterwards
	Files   []string // of the level
	Resumed bool     // an earlier call had been interrupted
}

// Discard removes the top level of a disk and what it stores: the disk is what
// it was when the level was added. path names the level, or the base.
//
// It refuses a level in use (ErrInUse), one that another depends on, and one
// that other configurations or snapshot lists name. Once the configuration does
// not name the level any more, or without a configuration its descriptor is
// gone, the disk is the old one; before, it is as it was. Discard carries on
// what has been interrupted.
func Discard(ctx context.Context, path string, o DiscardOptions) (*Discarded, error) {
	o.fill()
	j, unlock, err := begin(path, OpDiscard, &o.Options)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if j != nil {
		return j.discard(&o, true)
	}
	c, err := findChain(path, &o.Options)
	if err != nil {
		return nil, err
	}
	if err := c.mayDiscard(path, &o); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	top, below := c.top(), &c.levels[len(c.levels)-2]
	if j, err = newJournal(OpDiscard, phaseRemove, c, top, below, nil); err != nil {
		return nil, err
	}
	if !c.esx2 {
		if j.Files, err = extentFiles(top); err != nil {
			return nil, err
		}
	}
	if !o.DryRun {
		if err := j.put(o.FS, phaseRemove); err != nil {
			return nil, err
		}
	}
	return j.discard(&o, false)
}

// mayDiscard refuses a level that something needs.
func (c *chain) mayDiscard(path string, o *DiscardOptions) error {
	top := c.top()
	switch {
	case len(c.branches) > 0:
		return chainError(top.path, disk.ErrUnsupported, "children depend on it (%s)", list(c.branches))
	case len(c.levels) == 1:
		return chainError(path, disk.ErrUnsupported, "there is no redo log to discard")
	case c.named != 0 && c.named != len(c.levels)-1:
		return chainError(c.levels[c.named].path, disk.ErrUnsupported, "%s depends on it", filepath.Base(c.levels[c.named+1].path))
	case o.Level != 0 && o.Level != len(c.levels)-1:
		return chainError(top.path, disk.ErrUnsupported, "only the top can be discarded, which is level %d", len(c.levels)-1)
	}
	if err := c.checkConfig(&o.Options); err != nil {
		return err
	}
	files, err := c.filesOf(top)
	if err != nil {
		return err
	}
	if !o.AllowInUse {
		if err := checkUse(exclusive, files...); err != nil {
			return err
		}
	}
	configs, err := referrers(top.path, o.Config)
	if err != nil {
		return err
	}
	// A configuration of ESX 2.x that was not given to us may note the redo log;
	// it names the base.
	if len(configs) > 0 && !c.esx2 {
		return chainError(top.path, disk.ErrUnsupported, "%s names it: take it out of there first, or name that configuration", list(configs))
	}
	link, err := c.openLink(len(c.levels)-1, &o.Options) // is it what it is called?
	if err != nil {
		return err
	}
	return link.Close()
}

// discard points the configuration away, then removes the descriptor, then
// what it named.
func (j *journal) discard(o *DiscardOptions, resumed bool) (*Discarded, error) {
	done := &Discarded{Path: j.child(), Top: j.parent(), Files: []string{j.child()}, Resumed: resumed}
	for _, f := range j.Files {
		done.Files = append(done.Files, j.abs(f))
	}
	if o.DryRun {
		return done, nil
	}
	if err := j.stillThat(); err != nil {
		return nil, err
	}
	if err := o.Switch(j.child(), j.parent()); err != nil {
		return nil, err
	}
	dir := filepath.Dir(j.path)
	if exists(j.child()) {
		if err := o.FS.Remove(j.child()); err != nil {
			return nil, err
		}
		if err := o.FS.SyncDir(dir); err != nil {
			return nil, err
		}
	}
	if err := removeFiles(o.FS, dir, j.Files); err != nil {
		return nil, err
	}
	return done, j.end(o.FS)
}

// stillThat refuses a level that has come into being, or has been written to,
// since the journal was written: a machine may have been started.
func (j *journal) stillThat() error {
	if !exists(j.child()) || j.Child.same(j.child()) {
		return nil
	}
	if !j.ESX2 {
		if d, err := vmdk.ReadDescriptor(j.child()); err == nil && cidString(d.Descriptor.CID) == j.Child.CID {
			return nil
		}
	}
	return j.fail(disk.ErrMismatch, "%s has changed since it was to be discarded", j.Child.Path)
}
