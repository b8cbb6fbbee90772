// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/vmstream/vmstream/disk"
)

// The interfaces that a volume has. Paths need not be UTF-8 here: names are bytes.
var (
	_ fs.FS         = (*FS)(nil)
	_ fs.ReadDirFS  = (*FS)(nil)
	_ fs.StatFS     = (*FS)(nil)
	_ fs.ReadLinkFS = (*FS)(nil)
	_ disk.Image    = (*File)(nil)
)

// validPath is fs.ValidPath for names that are bytes.
func validPath(name string) bool {
	if name == "." {
		return true
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// walk finds a file by its path, without following symbolic links.
func (f *FS) walk(name string) (*inode, error) {
	if !validPath(name) {
		return nil, fs.ErrInvalid
	}
	n, err := f.readDescriptor(rootAddress)
	if err != nil {
		return nil, err
	}
	if !n.stat.isDir() {
		return nil, n.layout.corrupt("type", 0, "the root is a %v", n.stat.Type)
	}
	if name == "." {
		return n, nil
	}
	parent := rootAddress
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case n.stat.Type == Symlink:
			return nil, fmt.Errorf("%w, which is not followed", ErrSymlink)
		case !n.stat.isDir():
			return nil, fmt.Errorf("a part of it is no directory: %w", fs.ErrNotExist)
		}
		d, err := f.directoryOf(n, parent)
		if err != nil {
			return nil, err
		}
		e, ok := d.find(part)
		if !ok {
			return nil, errors.Join(fs.ErrNotExist, d.err())
		}
		parent = n.stat.Address
		if n, err = f.entryDescriptor(e, parent); err != nil {
			return nil, err
		}
	}
	return n, f.checkParent(n, parent)
}

// checkParent refuses a directory that does not know of the one that it is in: only
// damage can make directories loops.
func (f *FS) checkParent(n *inode, parent uint32) error {
	if !n.stat.isDir() {
		return nil
	}
	_, err := f.directoryOf(n, parent)
	return err
}

// directoryOf reads a directory, or has it still.
func (f *FS) directoryOf(n *inode, parent uint32) (*directory, error) {
	d, ok := f.folders.Get(n.stat.Address)
	if !ok {
		var err error
		if d, err = f.readDirectory(n); err != nil {
			return nil, err
		}
		cost := int64(1 << 10)
		for i := range d.entries {
			cost += int64(len(d.entries[i].name)) + 64
		}
		f.folders.Put(n.stat.Address, d, cost)
	}
	if d.parent != parent {
		return nil, n.layout.corrupt("directory", 0, "its parent is %08x, and it was found in %08x", d.parent, parent)
	}
	return d, nil
}

// OpenFile opens a regular file, a system file, or a raw device mapping, of which
// nothing can be read.
func (f *FS) OpenFile(name string) (*File, error) {
	n, err := f.walk(name)
	if err == nil && n.stat.isDir() {
		err = errors.New("is a directory")
	}
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return &File{fs: f, inode: n, name: name}, nil
}

// Open implements fs.FS. A symbolic link can be opened, and is read as its target.
func (f *FS) Open(name string) (fs.File, error) {
	n, err := f.walk(name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	if n.stat.isDir() {
		entries, err := f.ReadDir(name)
		return &openDir{info: info{path.Base(name), n}, name: name, entries: entries, err: err}, nil
	}
	return &openFile{File: File{fs: f, inode: n, name: name}}, nil
}

// Stat implements fs.StatFS; it is Lstat.
func (f *FS) Stat(name string) (fs.FileInfo, error) { return f.Lstat(name) }

// Lstat tells of a file; Sys of what it returns is a *Stat.
func (f *FS) Lstat(name string) (fs.FileInfo, error) {
	n, err := f.walk(name)
	if err != nil {
		return nil, pathError("stat", name, err)
	}
	return info{path.Base(name), n}, nil
}

// ReadLink returns the target of a symbolic link: a path on an ESX host, or relative.
func (f *FS) ReadLink(name string) (string, error) {
	n, err := f.walk(name)
	if err != nil {
		return "", pathError("readlink", name, err)
	}
	const maxTarget = 4096
	switch {
	case n.stat.Type != Symlink:
		return "", pathError("readlink", name, fs.ErrInvalid)
	case n.layout.size > maxTarget:
		return "", pathError("readlink", name, n.layout.corrupt("file length", 0, "is %d, of a symbolic link", n.layout.size))
	}
	b := make([]byte, n.layout.size)
	if err := n.layout.readFull(b, 0, "target"); err != nil {
		return "", pathError("readlink", name, err)
	}
	target, _, _ := strings.Cut(string(b), "\x00")
	return target, nil
}

// ReadDir implements fs.ReadDirFS: the entries come in the order of their names. An
// error may come together with entries: these are good, others were not.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := f.walk(name)
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	if !n.stat.isDir() {
		return nil, pathError("readdir", name, errors.New("no directory"))
	}
	d, ok := f.folders.Get(n.stat.Address) // walk has read it, if it had not been
	if !ok {
		if d, err = f.readDirectory(n); err != nil {
			return nil, pathError("readdir", name, err)
		}
	}
	all := make([]fs.DirEntry, len(d.entries))
	for i, e := range d.entries {
		all[i] = &entryInfo{fs: f, dir: n.stat.Address, e: e}
	}
	slices.SortFunc(all, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return all, pathError("readdir", name, d.err())
}

// entryInfo is a row of a directory. Its descriptor is read when it is asked for.
type entryInfo struct {
	fs  *FS
	dir uint32
	e   dirEntry
}

func (e *entryInfo) Name() string { return e.e.name }
func (e *entryInfo) IsDir() bool  { return e.Type().IsDir() }

func (e *entryInfo) Type() fs.FileMode {
	switch e.e.kind {
	case Directory:
		return fs.ModeDir
	case Symlink:
		return fs.ModeSymlink
	case RawDevice:
		return fs.ModeDevice
	case System: // one of them is a directory, which only its descriptor says
		if i, err := e.Info(); err == nil {
			return i.Mode().Type()
		}
	}
	return 0
}

func (e *entryInfo) Info() (fs.FileInfo, error) {
	n, err := e.fs.entryDescriptor(e.e, e.dir)
	if err != nil {
		return nil, err
	}
	return info{e.e.name, n}, nil
}

// info is a fs.FileInfo.
type info struct {
	name string
	n    *inode
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.n.stat.SizeBytes }
func (i info) Mode() fs.FileMode  { return i.n.stat.mode() }
func (i info) ModTime() time.Time { return i.n.stat.Modified }
func (i info) IsDir() bool        { return i.n.stat.isDir() }
func (i info) Sys() any           { s := i.n.stat; return &s }

// File is a file of a volume, with the layout that it had when it was opened: see
// [File.Changed]. It is safe for concurrent use.
type File struct {
	fs    *FS
	inode *inode
	name  string
}

// Size returns the length in bytes.
func (f *File) Size() int64 { return f.inode.stat.SizeBytes }

// Close does nothing.
func (f *File) Close() error { return nil }

// Stat returns what the file descriptor says; Sys of it is a *Stat.
func (f *File) Stat() (fs.FileInfo, error) { return info{path.Base(f.name), f.inode}, nil }

// Readable fails for what has no content here, as a raw device mapping.
func (f *File) Readable() error {
	s := &f.inode.stat
	switch {
	case f.inode.rdmErr != nil:
		return pathError("read", f.name, f.inode.rdmErr)
	case s.Type == RawDevice:
		return pathError("read", f.name, fmt.Errorf("it maps a LUN, %v, which has to be read itself: %w", s.RDM, disk.ErrUnsupported))
	}
	return nil
}

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if err := f.Readable(); err != nil {
		return 0, err
	}
	size := f.Size()
	switch {
	case off < 0:
		return 0, pathError("read", f.name, fmt.Errorf("negative offset %d", off))
	case off >= size:
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), size-off))
	if err := f.inode.layout.readFull(p[:n], off, "content"); err != nil {
		return 0, pathError("read", f.name, err)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Extent is a range of a file that is in one place.
type Extent struct {
	Offset int64 // in the file
	Length int64
	Where  Where
	Device int   // index among those given to Open, of what is Stored
	At     int64 // offset in that device
}

// Extents yields the extents of [off, off+n) in order and without gaps, clipped to the
// file. Neighbours are joined. No data is read. An error is yielded once and ends it.
func (f *File) Extents(off, n int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		var last Extent
		flush := func() bool { return last.Length == 0 || yield(last, nil) }
		for e, err := range f.pieces(off, n) {
			if err != nil {
				if flush() {
					yield(Extent{}, err)
				}
				return
			}
			if last.Length > 0 && last.Where == e.Where && (e.Where != Stored || last.Device == e.Device && last.At+last.Length == e.At) {
				last.Length += e.Length
				continue
			}
			if !flush() {
				return
			}
			last = e
		}
		flush()
	}
}

// pieces yields extents as they come.
func (f *File) pieces(off, n int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		if err := f.Readable(); err != nil {
			yield(Extent{}, err)
			return
		}
		end := f.Size()
		if off < 0 || n <= 0 || off >= end {
			return
		}
		end = min(end, off+min(n, end-off))
		for off < end {
			s, err := f.inode.layout.extend(off, end-off, 0)
			if err != nil {
				yield(Extent{}, pathError("map", f.name, err))
				return
			}
			for left := min(s.length, end-off); left > 0; {
				e := Extent{Offset: off, Length: left, Where: s.where}
				if s.where == Stored {
					if e.Device, e.At, e.Length, err = f.fs.vol.place(s.offset, left); err != nil {
						yield(Extent{}, pathError("map", f.name, err))
						return
					}
				}
				if !yield(e, nil) {
					return
				}
				off, left, s.offset = off+e.Length, left-e.Length, s.offset+e.Length
			}
		}
	}
}

// Runs implements disk.Image: holes and what ESX has yet to zero are known to be zero.
func (f *File) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	return disk.Merge(func(yield func(disk.Run, error) bool) {
		for e, err := range f.Extents(off, n) {
			if err != nil {
				yield(disk.Run{}, err)
				return
			}
			r := disk.Run{Offset: e.Offset, Length: e.Length, Kind: disk.Zero}
			if e.Where == Stored {
				r.Kind = disk.Data
			}
			if !yield(r, nil) {
				return
			}
		}
	})
}

// Prefetch has the system begin to read a range of the file from the devices, if they can
// be told; see [disk.Prefetcher].
func (f *File) Prefetch(off, n int64) {
	for e, err := range f.Extents(off, n) {
		if err != nil {
			return // who reads will be told
		}
		if e.Where == Stored {
			disk.Prefetch(f.fs.vol.devices[e.Device].R, e.At, e.Length)
		}
	}
}

// Changed reads the file descriptor again and reports if the file is not what was
// opened any more: if its length, its time, or where its bytes are has changed. Locks
// may change. Pointer blocks are not looked at again.
func (f *File) Changed() error {
	now, err := f.fs.reread(f.inode)
	if err != nil {
		return pathError("stat", f.name, err)
	}
	a, b := f.inode.stat, now.stat
	a.Lock, b.Lock, a.Accessed, b.Accessed, a.RDM, b.RDM = Lock{}, Lock{}, time.Time{}, time.Time{}, nil, nil
	if fmt.Sprint(a) != fmt.Sprint(b) || !slices.Equal(f.inode.layout.addrs, now.layout.addrs) {
		return pathError("read", f.name, fmt.Errorf("it has changed since it was opened: %w", disk.ErrMismatch))
	}
	return nil
}

// openFile is a File as io/fs has it.
type openFile struct {
	File
	off int64
}

func (o *openFile) Read(p []byte) (int, error) {
	n, err := o.ReadAt(p, o.off)
	o.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (o *openFile) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += o.off
	case io.SeekEnd:
		offset += o.Size()
	}
	if offset < 0 {
		return 0, pathError("seek", o.name, fs.ErrInvalid)
	}
	o.off = offset
	return offset, nil
}

// openDir is an open directory.
type openDir struct {
	info
	name    string
	entries []fs.DirEntry
	err     error
	next    int
}

func (d *openDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *openDir) Close() error               { return nil }

func (d *openDir) Read([]byte) (int, error) {
	return 0, pathError("read", d.name, errors.New("is a directory"))
}

// ReadDir implements fs.ReadDirFile.
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	left := d.entries[d.next:]
	if n <= 0 {
		d.next = len(d.entries)
		return left, d.err
	}
	if len(left) == 0 {
		if d.err != nil {
			return nil, d.err
		}
		return nil, io.EOF
	}
	left = left[:min(n, len(left))]
	d.next += len(left)
	return left, nil
}
