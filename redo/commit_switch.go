// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// run goes through the phases from the one that the journal has.
func (m *merge) run(ctx context.Context) error {
	j, fsys := m.journal, m.o.FS
	if j.Phase == phaseCopy {
		if err := m.copy(ctx); err != nil {
			return err
		}
		// From here on there is nothing that takes long, and nothing is undone.
		if err := j.put(fsys, phaseSwitch); err != nil {
			return err
		}
	}
	if j.Phase == phaseSwitch {
		next := m.switchNames
		if j.ESX2 {
			next = m.switchRedo
		}
		if err := next(); err != nil {
			return err
		}
		if err := j.put(fsys, phaseRemove); err != nil {
			return err
		}
	}
	if err := m.remove(); err != nil {
		return err
	}
	return j.end(fsys)
}

// isAlias reports if the child's descriptor names the parent's extents: then
// it has been replaced.
func (m *merge) isAlias() bool {
	child, err := vmdk.ReadDescriptor(m.journal.child())
	if err != nil || child.Embedded {
		return false
	}
	parent, err := vmdk.ReadDescriptor(m.journal.parent())
	if err != nil {
		return false
	}
	a, b := child.Descriptor.Extents, parent.Descriptor.Extents
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		name := filepath.Base(filepath.FromSlash(b[i].Name))
		if parent.Embedded {
			name = filepath.Base(m.journal.parent())
		}
		if a[i].Type != b[i].Type || a[i].Sectors != b[i].Sectors || a[i].Type != vmdk.ExtentZero && filepath.Base(a[i].Name) != name {
			return false
		}
	}
	return true
}

// switchNames makes everything that leads to the child lead to the parent. The
// child's descriptor is replaced first by one of the parent's extents, so that
// content ids can change one after the other: whoever comes through the child
// does not come by the parent's descriptor any more.
func (m *merge) switchNames() error {
	j, fsys := m.journal, m.o.FS
	parent := &level{path: j.parent()}
	child := &level{path: j.child()}
	var err error
	if child.desc, err = vmdk.ReadDescriptor(child.path); err != nil {
		return err
	}
	if m.isAlias() {
		if err := m.takeCID(child.desc.Descriptor.CID); err != nil {
			return err
		}
	} else {
		if parent.desc, err = vmdk.ReadDescriptor(parent.path); err != nil {
			return err
		}
		text, err := alias(child, parent)
		if err != nil {
			return err
		}
		if err := ReplaceFile(fsys, child.path, text); err != nil {
			return err
		}
	}
	if err := m.putParentText(parent); err != nil {
		return err
	}
	if g := j.grandchild(); g != "" {
		return m.adopt(g)
	}
	return m.o.Switch(j.child(), j.parent())
}

// takeCID makes the parent's content id another one than planned if somebody
// has written through the child's name since that leads to the parent.
func (m *merge) takeCID(cid uint32) error {
	j := m.journal
	if cidString(cid) == j.Child.CID {
		return nil
	}
	j.CID, j.LongContentID = cidString(cid), newLongContentID(cid)
	text, err := editDescriptor(j.path, []byte(j.Text), map[string]string{keyCID: j.CID, keyLongContentID: j.LongContentID})
	if err != nil {
		return err
	}
	j.Text = string(text)
	return j.put(m.o.FS, phaseSwitch)
}

// putParentText gives the parent its new content id. An embedded descriptor
// that was torn is put back whole.
func (m *merge) putParentText(parent *level) (err error) {
	text := []byte(m.journal.Text)
	d, err := vmdk.ParseDescriptor(text)
	if err != nil {
		return m.journal.fail(disk.ErrCorrupt, "the descriptor in it: %v", err)
	}
	if parent.desc, err = vmdk.ReadDescriptor(parent.path); err != nil {
		return err
	}
	if !sameExtents(d, parent.desc.Descriptor) {
		return m.journal.fail(disk.ErrMismatch, "the descriptor in it is not of %s", parent.path)
	}
	return putDescriptor(m.o.FS, parent.path, parent.desc, text)
}

func sameExtents(a, b *vmdk.Descriptor) bool {
	if len(a.Extents) != len(b.Extents) {
		return false
	}
	for i := range a.Extents {
		if a.Extents[i] != b.Extents[i] {
			return false
		}
	}
	return true
}

// adopt makes the parent the parent of the grandchild: its name and its content
// id change in one step.
func (m *merge) adopt(path string) error {
	g, err := vmdk.ReadDescriptor(path)
	if err != nil {
		return err
	}
	hint, err := filepath.Rel(filepath.Dir(path), m.journal.parent())
	if err != nil {
		return err
	}
	text, err := editDescriptor(path, g.Text, map[string]string{keyHint: filepath.ToSlash(hint), keyParentCID: m.journal.CID})
	if err != nil {
		return err
	}
	return putDescriptor(m.o.FS, path, g, text)
}

// switchRedo is switchNames for the naming of ESX 2.x. The level above takes
// the child's name, which removes the child in the same step.
func (m *merge) switchRedo() error {
	j, fsys := m.journal, m.o.FS
	g := j.grandchild()
	if g == "" {
		return m.o.Switch(j.child(), j.parent())
	}
	if err := m.o.Switch(g, j.child()); err != nil {
		return err
	}
	if !exists(g) {
		return m.renameParent()
	}
	if err := fsys.Rename(g, j.child()); err != nil {
		return err
	}
	if err := fsys.SyncDir(filepath.Dir(j.path)); err != nil {
		return err
	}
	return m.renameParent()
}

// renameParent corrects the name of the parent in the header of the level that
// was renamed. Names of files count, so it may come late.
func (m *merge) renameParent() error {
	f, err := m.o.FS.Open(m.journal.child())
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // everything is synced
	if err := vmdk.SetCOWDParentName(f, filepath.Base(strings.TrimSuffix(m.journal.child(), redoSuffix))); err != nil {
		return err
	}
	return f.Sync()
}

// remove removes what is left of the child, the descriptor first.
func (m *merge) remove() error {
	j, fsys := m.journal, m.o.FS
	dir := filepath.Dir(j.path)
	if j.ESX2 {
		if j.Grandchild != nil { // its name belongs to another file by now
			return nil
		}
		return removeFiles(fsys, dir, []string{j.Child.Path})
	}
	if exists(j.child()) {
		if !m.isAlias() {
			return j.fail(disk.ErrMismatch, "%s has been replaced", j.Child.Path)
		}
		if err := fsys.Remove(j.child()); err != nil {
			return err
		}
		if err := fsys.SyncDir(dir); err != nil {
			return err
		}
	}
	return removeFiles(fsys, dir, j.Files)
}
