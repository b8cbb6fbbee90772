// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// maxChainDepth is twice what vSphere allows.
const maxChainDepth = 64

// openChain opens the parents of a link, down to the base. The links come
// back also if there is an error, for the caller to close.
func (op *opener) openChain(top *chainLink) ([]*Link, error) {
	links := []*Link{top.link}
	if top.link.info.ParentCID == NoParent {
		return links, nil
	}
	var seen []fs.FileInfo
	st, err := op.tree.Stat(top.link.info.Path)
	if err != nil {
		return links, err
	}
	seen = append(seen, st)
	for child := top; child.link.info.ParentCID != NoParent; {
		if len(links) == maxChainDepth {
			return links, chainError(child.link, disk.ErrUnsupported, "the chain has more than %d links", maxChainDepth)
		}
		parent, st, err := op.openParent(child, seen)
		if err != nil {
			return links, err
		}
		seen = append(seen, st)
		links = append(links, parent.link)
		if err := checkParent(child.link, parent.link); err != nil {
			return links, err
		}
		child = parent
	}
	return links, nil
}

func chainError(l *Link, kind error, format string, args ...any) error {
	return &disk.FormatError{
		File: l.info.Path, Format: descriptorFormat, Field: "parentFileNameHint", Offset: -1,
		Err: kind, Detail: fmt.Sprintf(format, args...),
	}
}

// openParent opens the parent of a link. Only a file with a descriptor can be
// one: anything else is refused, never guessed.
func (op *opener) openParent(child *chainLink, seen []fs.FileInfo) (*chainLink, fs.FileInfo, error) {
	hint := child.link.info.ParentFileNameHint
	if hint == "" {
		return nil, nil, chainError(child.link, disk.ErrCorrupt, "missing, though parentCID is %08x", child.link.info.ParentCID)
	}
	f, err := child.dir.openParent(hint)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: opening the parent: %w", child.link.info.Path, err)
	}
	l, st, err := op.openParentFile(child, f, seen)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return l, st, nil
}

func (op *opener) openParentFile(child *chainLink, f disk.RawFile, seen []fs.FileInfo) (*chainLink, fs.FileInfo, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	for _, s := range seen {
		if op.tree.SameFile(s, st) {
			return nil, nil, chainError(child.link, disk.ErrCorrupt, "leads back to %s, which is in the chain already", quoteName(f.Name()))
		}
	}
	kind, _, err := detectFile(f)
	if err != nil {
		return nil, nil, err
	}
	if kind != kindDescriptor && kind != kindHosted {
		return nil, nil, chainError(child.link, disk.ErrCorrupt, "names %s, which has no descriptor", quoteName(f.Name()))
	}
	e := &entryFile{file: f, kind: kind, dir: directoryOf{
		tree: op.tree, path: filepath.Dir(f.Name()), referrer: f.Name(), allowOutside: op.options.AllowOutside,
	}}
	l, err := op.openDescribed(e)
	if err != nil {
		return nil, nil, err
	}
	return &chainLink{link: l, dir: e.dir}, st, nil
}

// checkParent refuses a parent that is not the one the child was made over:
// the two together would be a content that never existed.
func checkParent(child, parent *Link) error {
	if child.info.ParentCID != parent.info.CID {
		return &disk.FormatError{
			File: child.info.Path, Format: descriptorFormat, Field: "parentCID", Offset: -1, Err: disk.ErrMismatch,
			Detail: fmt.Sprintf("is %08x, but the CID of %s is %08x: the parent was changed after the child was made", child.info.ParentCID, parent.info.Path, parent.info.CID),
		}
	}
	return checkCapacities(child, parent)
}

func checkCapacities(child, parent *Link) error {
	if child.Size() == parent.Size() {
		return nil
	}
	return &disk.FormatError{
		File: child.info.Path, Field: "capacity", Offset: -1, Err: disk.ErrMismatch,
		Detail: fmt.Sprintf("%d bytes, but its parent %s has %d", child.Size(), parent.info.Path, parent.Size()),
	}
}

const redoSuffix = ".REDO"

func isRedoName(path string) bool { return strings.HasSuffix(path, redoSuffix) }

// OpenRedo opens a redo log of ESX 2.x and all that it lies over, by name:
// the parent of F.REDO is F. The lowest file is a raw disk or device by its
// role, whatever its bytes say. Every level has to be there, to be a COWD file
// and to have the capacity of the base.
func OpenRedo(path string, o Options) (*Disk, error) {
	op, err := newOpener(o)
	if err != nil {
		return nil, err
	}
	return op.openRedo(path)
}

func (op *opener) openRedo(path string) (*Disk, error) {
	return op.finish(op.openRedoLinks(path))
}

func (op *opener) openRedoLinks(path string) ([]*Link, error) {
	if !isRedoName(path) {
		return nil, &disk.FormatError{
			File: path, Format: cowdFormat, Field: "file name", Offset: -1, Err: disk.ErrUnknown,
			Detail: "a redo log without a descriptor is called like its disk with " + redoSuffix + " behind",
		}
	}
	if _, err := op.tree.Lstat(path + redoSuffix); err == nil && !op.options.Frozen {
		op.shared.warnf("%s: there is a newer redo log on top of it, %s, which is not read", path, filepath.Base(path)+redoSuffix)
	}
	dir := directoryOf{tree: op.tree, path: filepath.Dir(path), referrer: path, allowOutside: op.options.AllowOutside}
	var links []*Link
	for isRedoName(path) {
		if len(links) == maxChainDepth-1 {
			return links, &disk.FormatError{File: path, Format: cowdFormat, Offset: -1, Err: disk.ErrUnsupported, Detail: fmt.Sprintf("more than %d levels of redo logs", maxChainDepth-1)}
		}
		l, err := op.openRedoLevel(&dir, path, len(links) == 0)
		if err != nil {
			return links, err
		}
		links = append(links, l)
		path = strings.TrimSuffix(path, redoSuffix)
		op.compareParentName(l, path)
	}
	f, err := openLevel(&dir, path)
	if err != nil {
		return links, err
	}
	base, err := op.openRawLink(f, true)
	if err != nil {
		return links, errors.Join(err, f.Close())
	}
	links = append(links, base)
	for i := range len(links) - 1 {
		if err := checkCapacities(links[i], links[i+1]); err != nil {
			return links, err
		}
		links[i+1].info.CID = links[i].cowd.linkID
	}
	return links, nil
}

// openLevel opens a file of a redo log's chain. One that is missing is a gap.
func openLevel(dir *directoryOf, path string) (disk.RawFile, error) {
	f, err := dir.open(filepath.Base(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: a lower level of the redo log is missing: %w", dir.referrer, err)
	}
	return f, err
}

func (op *opener) openRedoLevel(dir *directoryOf, path string, named bool) (*Link, error) {
	var f disk.RawFile
	var err error
	if named { // what the operator names may lie anywhere
		f, err = op.tree.Open(path)
	} else {
		f, err = openLevel(dir, path)
	}
	if err != nil {
		return nil, err
	}
	src := sourceOf(f)
	x, h, err := openCOWD(src, op.shared, extentSpec{hole: disk.Parent})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	x.closer = f
	l := &Link{info: LinkInfo{Path: f.Name(), Kind: KindRedo, ParentCID: NoParent}, cowd: &h}
	l.add(x)
	return l, nil
}

// compareParentName warns if the header of a redo log names another parent
// than its own name does. The name is what ESX goes by.
func (op *opener) compareParentName(l *Link, parent string) {
	name := cowdParentOf(l.cowd)
	if name != "" && name != filepath.Base(parent) {
		op.shared.warnf("%s: its header names the parent %s, its own name %s; the latter is used", l.info.Path, quoteName(name), quoteName(filepath.Base(parent)))
	}
}
