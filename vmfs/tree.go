// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// Root is where an ESX host has its volumes.
const Root = "/vmfs/volumes"

// Tree has volumes where an ESX host has them: at /vmfs/volumes/LABEL, and at
// /vmfs/volumes/UUID; and at /vmfs/LABEL as ESX 2.x had it. Symbolic links are followed
// there. It is a [disk.Tree] and a [disk.Guard], and safe for concurrent use.
type Tree struct {
	volumes []*mounted
	note    func(string)
	mapped  func(string, *Stat) (disk.RawFile, error) // opens the LUNs of mappings; nil: not
}

var (
	_ disk.Tree  = (*Tree)(nil)
	_ disk.Guard = (*Tree)(nil)
)

// mounted is a volume of a tree.
type mounted struct {
	*FS
	name  string // the label, or the UUID if that is no name or not the only one
	label string
	uuid  string
	watch watch
}

// NewTree puts volumes together, each once. note takes lines about what takes time;
// nil discards.
func NewTree(volumes []*FS, note func(string)) (*Tree, error) {
	if note == nil {
		note = func(string) {}
	}
	t := &Tree{note: note}
	labels := map[string]int{}
	for _, f := range volumes {
		h := f.Header()
		m := &mounted{FS: f, label: h.Label, uuid: h.UUID.String()}
		if slices.ContainsFunc(t.volumes, func(o *mounted) bool { return o.uuid == m.uuid }) {
			return nil, fmt.Errorf("VMFS: volume %q, %s, is there twice: name one of its copies: %w", m.label, m.uuid, disk.ErrUnsupported)
		}
		labels[m.label]++
		t.volumes = append(t.volumes, m)
	}
	for _, m := range t.volumes {
		m.name = m.label
		if labels[m.label] > 1 || !validPath(m.label) || m.label == "." || strings.Contains(m.label, "/") {
			m.name = m.uuid
		}
	}
	return t, nil
}

// Path returns the path in the tree of a file of one of its volumes.
func (t *Tree) Path(f *FS, name string) string {
	for _, m := range t.volumes {
		if m.FS == f {
			return path.Join(Root, m.name, name)
		}
	}
	return path.Join(Root, name)
}

// InVolume returns the volume that a path of the tree leads to, and the path there.
func (t *Tree) InVolume(name string) (*FS, string, error) {
	s, err := t.find(name, true)
	if err == nil && s.volume == nil {
		err = fmt.Errorf("is no file of a volume: %w", disk.ErrUnsupported)
	}
	if err != nil {
		return nil, "", pathError("find", name, err)
	}
	return s.volume.FS, s.name, nil
}

// spot is a file of a tree. Those without a volume are the directories above these.
type spot struct {
	volume *mounted
	name   string // in the volume, or the path of what is above them
	inode  *inode
}

func (s *spot) path() string {
	if s.volume == nil {
		return s.name
	}
	return path.Join(Root, s.volume.name, s.name)
}

func (s *spot) info() fs.FileInfo {
	if s.volume == nil {
		return aboveInfo(path.Base(s.name))
	}
	return info{path.Base(s.path()), s.inode}
}

// maxLinks is how many symbolic links are followed on the way to a file.
const maxLinks = 40

// find finds a file. follow says if a symbolic link at its end is followed.
func (t *Tree) find(name string, follow bool) (*spot, error) {
	name = path.Clean(name)
	for range maxLinks {
		s, target, err := t.step(name, follow)
		if err != nil || target == "" {
			return s, err
		}
		name = target
	}
	return nil, fmt.Errorf("more than %d symbolic links: %w", maxLinks, disk.ErrUnsupported)
}

// step finds a file, or the path that the first symbolic link on the way leads to.
func (t *Tree) step(name string, follow bool) (*spot, string, error) {
	if name == "/" || name == "/vmfs" || name == Root {
		return &spot{name: name}, "", nil
	}
	m, rest := t.split(name)
	if m == nil {
		return nil, "", fmt.Errorf("no volume that was named has it: %w", fs.ErrNotExist)
	}
	parts := strings.Split(rest, "/")
	for i := range parts {
		at := strings.Join(parts[:i+1], "/")
		n, err := m.walk(at)
		if err != nil {
			return nil, "", err
		}
		if last := i == len(parts)-1; n.stat.Type != Symlink || last && !follow {
			if last {
				return &spot{m, at, n}, "", nil
			}
			continue
		}
		target, err := m.ReadLink(at)
		if err != nil {
			return nil, "", err
		}
		if target == "" {
			return nil, "", fmt.Errorf("%s: a symbolic link to nothing: %w", at, fs.ErrNotExist)
		}
		if !path.IsAbs(target) {
			target = path.Join(Root, m.name, path.Dir(at), target)
		}
		return nil, path.Join(target, strings.Join(parts[i+1:], "/")), nil
	}
	return nil, "", fs.ErrInvalid // a path has parts
}

// split finds the volume that a path leads to.
func (t *Tree) split(name string) (*mounted, string) {
	tail, ok := strings.CutPrefix(name, Root+"/")
	if !ok {
		if tail, ok = strings.CutPrefix(name, "/vmfs/"); !ok {
			return nil, ""
		}
	}
	first, rest, _ := strings.Cut(tail, "/")
	if rest == "" {
		rest = "."
	}
	for _, m := range t.volumes {
		if m.name == first || m.uuid == first {
			return m, rest
		}
	}
	return nil, ""
}

// Open implements disk.Tree.
func (t *Tree) Open(name string) (disk.RawFile, error) {
	s, err := t.find(name, true)
	return t.open(s, name, err)
}

// open opens what was found, if err is nil.
func (t *Tree) open(s *spot, name string, err error) (disk.RawFile, error) {
	var f disk.RawFile
	switch {
	case err != nil:
	case t.mapped != nil && s.volume != nil && s.inode.stat.Type == RawDevice:
		f, err = t.openMapped(s)
	default:
		if err = s.readable(); err == nil {
			f = &treeFile{File{fs: s.volume.FS, inode: s.inode, name: s.name}, s.path()}
		}
	}
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return f, nil
}

func (s *spot) readable() error {
	if s.volume == nil || s.inode.stat.isDir() {
		return fmt.Errorf("is a directory: %w", disk.ErrUnsupported)
	}
	err := (&File{inode: s.inode}).Readable()
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// Stat implements disk.Tree.
func (t *Tree) Stat(name string) (fs.FileInfo, error) { return t.stat(name, true) }

// Lstat implements disk.Tree.
func (t *Tree) Lstat(name string) (fs.FileInfo, error) { return t.stat(name, false) }

func (t *Tree) stat(name string, follow bool) (fs.FileInfo, error) {
	s, err := t.findNow(name, follow)
	if err != nil {
		return nil, pathError("stat", name, err)
	}
	return s.info(), nil
}

// findNow is find for a file descriptor as it is on the devices now.
func (t *Tree) findNow(name string, follow bool) (*spot, error) {
	s, err := t.find(name, follow)
	if err == nil && s.volume != nil {
		s.inode, err = s.volume.reread(s.inode)
	}
	return s, err
}

// RealPath implements disk.Tree.
func (t *Tree) RealPath(name string) (string, error) {
	s, err := t.find(name, true)
	if err != nil {
		return "", pathError("stat", name, err)
	}
	return s.path(), nil
}

// SameFile implements disk.Tree.
func (t *Tree) SameFile(a, b fs.FileInfo) bool {
	x, ok1 := a.(info)
	y, ok2 := b.(info)
	return ok1 && ok2 && x.n.layout.fs == y.n.layout.fs && x.n.stat.Address == y.n.stat.Address && x.n.stat.Generation == y.n.stat.Generation
}

// OpenDir implements disk.Tree.
func (t *Tree) OpenDir(name string) (disk.Directory, error) {
	s, err := t.find(name, true)
	if err == nil && s.volume != nil && !s.inode.stat.isDir() {
		err = fmt.Errorf("not a directory: %w", disk.ErrUnsupported)
	}
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return &treeDir{t, s}, nil
}

// treeFile is an open file of a tree.
type treeFile struct {
	File
	path string
}

// Name implements disk.RawFile.
func (f *treeFile) Name() string { return f.path }

// Stat implements disk.RawFile: it tells what the file is now.
func (f *treeFile) Stat() (fs.FileInfo, error) { return f.fs.statNow(f.inode, f.path) }

// statNow tells what the file with a path in a tree is now.
func (f *FS) statNow(n *inode, name string) (fs.FileInfo, error) {
	n, err := f.reread(n)
	if err != nil {
		return nil, pathError("stat", name, err)
	}
	return info{path.Base(name), n}, nil
}

// Device implements disk.RawFile.
func (f *treeFile) Device() bool { return false }

// treeDir is an open directory of a tree.
type treeDir struct {
	t *Tree
	s *spot
}

// inside finds a file of the directory.
func (d *treeDir) inside(name string, follow bool) (*spot, error) {
	if !localName(name) {
		return nil, fmt.Errorf("leads out of %s: %w", d.s.path(), fs.ErrInvalid)
	}
	s, err := d.t.find(path.Join(d.s.path(), name), follow)
	if err != nil {
		return nil, err
	}
	if p := d.s.path(); s.path() != p && !strings.HasPrefix(s.path(), strings.TrimSuffix(p, "/")+"/") {
		return nil, fmt.Errorf("is a symbolic link out of %s: %w", p, fs.ErrInvalid)
	}
	return s, nil
}

// localName reports if a name does not lead out of its directory as it is written.
func localName(name string) bool {
	return name != "" && !path.IsAbs(name) && !slices.Contains(strings.Split(name, "/"), "..")
}

// Open implements disk.Directory.
func (d *treeDir) Open(name string) (disk.RawFile, error) {
	s, err := d.inside(name, true)
	return d.t.open(s, name, err)
}

// Stat implements disk.Directory.
func (d *treeDir) Stat(name string) (fs.FileInfo, error) { return d.stat(name, true) }

// Lstat implements disk.Directory.
func (d *treeDir) Lstat(name string) (fs.FileInfo, error) { return d.stat(name, false) }

func (d *treeDir) stat(name string, follow bool) (fs.FileInfo, error) {
	s, err := d.inside(name, follow)
	if err != nil {
		return nil, pathError("stat", name, err)
	}
	return s.info(), nil
}

// Entries implements disk.Directory.
func (d *treeDir) Entries() iter.Seq2[fs.DirEntry, error] {
	return func(yield func(fs.DirEntry, error) bool) {
		entries, err := d.t.entries(d.s)
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

func (t *Tree) entries(s *spot) ([]fs.DirEntry, error) {
	switch {
	case s.volume != nil:
		return s.volume.ReadDir(s.name)
	case s.name == "/":
		return []fs.DirEntry{fs.FileInfoToDirEntry(aboveInfo("vmfs"))}, nil
	case s.name == "/vmfs":
		return []fs.DirEntry{fs.FileInfoToDirEntry(aboveInfo("volumes"))}, nil
	}
	var all []fs.DirEntry
	for _, m := range t.volumes {
		all = append(all, fs.FileInfoToDirEntry(aboveInfo(m.name)))
	}
	return all, nil
}

// Close implements disk.Directory.
func (d *treeDir) Close() error { return nil }
