// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// CommitOptions say what is committed.
type CommitOptions struct {
	Options

	// Level is the level that is merged into the one below it, counted from the
	// base, which is 0 and cannot be. 0 takes the level that was named, or the
	// top if that is the base. Levels above it stay.
	Level int

	// DryRun checks everything and writes nothing.
	DryRun bool
}

// Committed is what Commit has done or, with DryRun, would do. Sizes are in bytes.
type Committed struct {
	Child  string // the level that goes away
	Parent string // the level that takes its content
	Level  int    // of the child; 0 if an interrupted commit was carried on
	Top    string // of the disk afterwards

	Runs      int64 // pieces of the disk that are written
	DataBytes int64 // stored in the child
	ZeroBytes int64 // that the child says are zero

	// NeedBytes is how much the files of the parent can grow at most, FreeBytes
	// what the file system has, -1 if that is not known.
	NeedBytes, FreeBytes int64

	Resumed bool // an earlier commit had been interrupted
}

// Commit merges a level into the one below it: the top one or, while those above
// stay, one further down. Afterwards the disk has the same content and one level
// less. Flat, COWD and hosted sparse levels take a commit; compressed and
// SEsparse ones do not (ErrUnsupported).
//
// It refuses levels in use (ErrInUse), a parent that has other children or
// that configurations and snapshot lists name, one whose changed blocks are
// tracked, and too little free space. Memory does not grow with the disk.
//
// A commit that is interrupted, by whatever, leaves a disk that reads as before
// through every name that led to it; Commit carries it on.
func Commit(ctx context.Context, path string, o CommitOptions) (*Committed, error) {
	o.fill()
	j, unlock, err := begin(path, OpCommit, &o.Options)
	if err != nil {
		return nil, err
	}
	defer unlock()
	m := &merge{o: &o.Options, journal: j}
	if j != nil {
		err = m.resume(ctx)
	} else {
		err = m.begin(ctx, path, o.Level)
	}
	if err == nil && !o.DryRun {
		err = m.run(ctx)
	}
	if err = errors.Join(err, m.close()); err != nil {
		return nil, err
	}
	return &m.done, nil
}

// merge is a commit on its way.
type merge struct {
	o       *Options
	chain   *chain // nil once the copying is done
	index   int    // of the child in the chain
	link    *vmdk.Link
	runs    []disk.Run // what the link has, if it is not too much
	journal *journal
	done    Committed
}

// close closes the child.
func (m *merge) close() error {
	if m.link == nil {
		return nil
	}
	link := m.link
	m.link = nil
	return link.Close()
}

func (m *merge) child() *level  { return &m.chain.levels[m.index] }
func (m *merge) parent() *level { return &m.chain.levels[m.index-1] }

// grandchild returns the level over the child, nil if that is the top.
func (m *merge) grandchild() *level {
	if m.index == len(m.chain.levels)-1 {
		return nil
	}
	return &m.chain.levels[m.index+1]
}

// begin checks everything that has to be so, and writes nothing.
func (m *merge) begin(ctx context.Context, path string, index int) error {
	c, err := findChain(path, m.o)
	if err != nil {
		return err
	}
	m.chain, m.index = c, index
	if m.index == 0 {
		m.index = c.named
	}
	if m.index == 0 {
		if len(c.branches) > 0 {
			return chainError(path, disk.ErrUnsupported, "it has several children (%s): name the one to commit", list(c.branches))
		}
		m.index = len(c.levels) - 1
	}
	if err := c.checkConfig(m.o); err != nil {
		return err
	}
	switch {
	case len(c.levels) == 1:
		return chainError(path, disk.ErrUnsupported, "there is no redo log to commit")
	case m.index < 0 || m.index >= len(c.levels):
		return chainError(path, disk.ErrUnsupported, "there is no level %d; the top is level %d", m.index, len(c.levels)-1)
	}
	if err := m.check(ctx); err != nil {
		return err
	}
	m.done.Level = m.index
	return m.prepare()
}

// check holds the levels against what a commit needs.
func (m *merge) check(ctx context.Context) error {
	c, child, parent := m.chain, m.child(), m.parent()
	files, err := c.filesOf(child)
	if err != nil {
		return err
	}
	parents, err := c.filesOf(parent)
	if err != nil {
		return err
	}
	files = append(files, parents...)
	if g := m.grandchild(); g != nil {
		above, err := c.filesOf(g)
		if err != nil {
			return err
		}
		files = append(files, above...)
	}
	if !m.o.AllowInUse {
		if err := checkUse(exclusive, files...); err != nil {
			return err
		}
	}
	if !c.esx2 {
		if err := m.checkFamily(); err != nil {
			return err
		}
	}
	if err := m.measure(ctx); err != nil {
		return err
	}
	if n := m.done; n.FreeBytes >= 0 && n.FreeBytes < n.NeedBytes {
		return chainError(parent.path, disk.ErrUnsupported, "it may have to grow by %d bytes, and there are %d free", n.NeedBytes, n.FreeBytes)
	}
	return nil
}

// checkFamily refuses a parent that others depend on, and a child that others do.
func (m *merge) checkFamily() error {
	child, parent, g := m.child(), m.parent(), m.grandchild()
	names, err := children(parent.path)
	if err != nil {
		return err
	}
	if dir := filepath.Dir(child.path); dir != filepath.Dir(parent.path) {
		here, err := childrenIn(dir, parent.path)
		if err != nil {
			return err
		}
		names = append(names, here...)
	}
	if len(names) != 1 || names[0] != child.path {
		return chainError(parent.path, disk.ErrUnsupported, "it has other children than %s (%s): they would become unreadable", filepath.Base(child.path), list(names))
	}
	if names, err = children(child.path); err != nil {
		return err
	}
	if len(names) > 1 || len(names) == 1 && (g == nil || names[0] != g.path) {
		return chainError(child.path, disk.ErrUnsupported, "several children depend on it (%s)", list(names))
	}
	for _, l := range []*level{child, parent} {
		if err := l.mayMerge(m.o); err != nil {
			return err
		}
	}
	return nil
}

// mayMerge refuses a level that configurations and snapshot lists name, and one
// whose changed blocks are tracked.
func (l *level) mayMerge(o *Options) error {
	configs, err := referrers(l.path, o.Config)
	if err != nil {
		return err
	}
	if len(configs) > 0 {
		return chainError(l.path, disk.ErrUnsupported, "%s names it: take the snapshot or the disk out of there first, or name that configuration", list(configs))
	}
	if tracked(l.desc.Descriptor) {
		return chainError(l.path, disk.ErrUnsupported, "changed block tracking is on, and its file would not know what a commit writes: turn it off first (%s)", keyChangeTrack)
	}
	return nil
}

// CheckTop returns why a redo log over the top of the disk, of which path is a
// level, could not be committed into that (ErrUnsupported): Commit would refuse it
// for what the top is, or for who names it. It is to be asked before Add by who
// counts on the commit.
func CheckTop(path string, o Options) error {
	o.fill()
	c, err := findChain(path, &o)
	if err != nil || c.esx2 {
		return err
	}
	top := c.top()
	if err := top.mayMerge(&o); err != nil {
		return err
	}
	link, err := c.openLink(len(c.levels)-1, &o)
	if err != nil {
		return err
	}
	info := link.Info()
	for _, e := range info.Extents {
		if e.Compressed || e.Type == vmdk.ExtentSESparse {
			err = chainError(top.path, disk.ErrUnsupported, "it is compressed or SEsparse, and takes no commit")
		}
	}
	return errors.Join(err, link.Close())
}

func tracked(d *vmdk.Descriptor) bool {
	for _, e := range d.Header {
		if e.Key == keyChangeTrack && e.Value != "" {
			return true
		}
	}
	return false
}

// prepare makes the journal, which is not written yet.
func (m *merge) prepare() (err error) {
	c, child, parent := m.chain, m.child(), m.parent()
	if m.journal, err = newJournal(OpCommit, phaseCopy, c, child, parent, m.grandchild()); err != nil {
		return err
	}
	m.done.Child, m.done.Parent, m.done.Top = child.path, parent.path, parent.path
	if g := m.grandchild(); g != nil {
		m.done.Top = c.top().path
		if c.esx2 { // whose levels move down by one
			m.done.Top = c.levels[len(c.levels)-2].path
		}
	}
	if c.esx2 {
		return nil
	}
	j := m.journal
	if j.Files, err = extentFiles(child); err != nil {
		return err
	}
	cid, was := child.desc.Descriptor.CID, parent.desc.Descriptor
	if cid == unwritten || cid == 0 || cid == vmdk.NoParent {
		if cid = was.CID; m.done.Runs > 0 {
			cid = newCID()
		}
	}
	j.CID = cidString(cid)
	j.LongContentID = child.desc.Descriptor.DDBValue(keyLongContentID)
	if cid == was.CID { // the content is the same: nothing was written to the child
		j.LongContentID = was.DDBValue(keyLongContentID)
	}
	if len(j.LongContentID) != 32 || j.LongContentID[24:] != j.CID {
		j.LongContentID = newLongContentID(cid)
	}
	text, err := editDescriptor(parent.path, parent.desc.Text, map[string]string{keyCID: j.CID, keyLongContentID: j.LongContentID})
	if err != nil {
		return err
	}
	j.Text = string(text)
	_, err = alias(child, parent) // that it can be made
	return err
}

// resume takes an interrupted commit up.
func (m *merge) resume(ctx context.Context) error {
	j := m.journal
	m.done = Committed{Child: j.child(), Parent: j.parent(), Top: j.parent(), FreeBytes: -1, Resumed: true}
	if g := j.grandchild(); g != "" {
		m.done.Top = g
		if j.ESX2 {
			m.done.Top = j.child()
		}
	}
	if j.Phase != phaseCopy && !m.copyHolds() {
		j.Phase = phaseCopy
	}
	if j.Phase != phaseCopy {
		return nil
	}
	v := *m.o
	if !j.ESX2 {
		v.Format = vmdk.SourceVMDK
	}
	c, err := findChain(j.child(), &v)
	if err != nil {
		return err
	}
	m.chain, m.index = c, c.named
	if m.index == 0 || m.parent().path != j.parent() {
		return j.fail(disk.ErrMismatch, "%s is not the parent of %s any more", j.Parent.Path, j.Child.Path)
	}
	if err := m.check(ctx); err != nil {
		return err
	}
	if err := m.prepare(); err != nil { // content ids may be others now
		return err
	}
	m.journal.Redundant = j.Redundant
	return nil
}

// copyHolds reports if the child is what was copied, or is gone. Somebody who
// started the machine after the interruption may have written to it.
func (m *merge) copyHolds() bool {
	j := m.journal
	switch {
	case !j.ESX2:
		return j.Phase == phaseRemove || m.isAlias() || j.Child.same(j.child())
	case j.Grandchild != nil && (j.Phase == phaseRemove || !exists(j.grandchild())):
		return true // has taken the child's name
	}
	return !exists(j.child()) || j.Child.same(j.child())
}
