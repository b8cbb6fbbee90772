// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package vmfsmount mounts a VMFS volume read-only, through FUSE, for programs that take
// paths. Holes show as holes (SEEK_DATA, SEEK_HOLE), so that they are not read there either.
package vmfsmount

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"log"
	"log/slog"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmfs"
)

// Options say how a volume is mounted.
type Options struct {
	AllowOther bool         // other users may read it, too, as its modes say
	Log        *slog.Logger // takes what the FUSE library says; may be nil
	Ready      func()       // called when it is mounted; may be nil
}

// cacheTime is how long the kernel keeps what it was told. Hosts may change the volume.
const cacheTime = time.Second

// lingerTime is how long who still uses a volume that was unmounted is waited for. What
// is read from it after that fails.
const lingerTime = 2 * time.Second

// readBytes is how much the kernel asks for at a time.
const readBytes = 1 << 20

// Mount mounts a volume at a directory and serves it until ctx ends or somebody unmounts
// it. If ctx ends while somebody uses it, it is taken out of the tree at once, and files
// that are open are served for two seconds more.
func Mount(ctx context.Context, v *vmfs.FS, dir string, o Options) error {
	root := &node{v: v, name: "."}
	if _, err := v.Lstat("."); err != nil {
		return err
	}
	timeout := cacheTime
	options := &fs.Options{
		EntryTimeout: &timeout, AttrTimeout: &timeout,
		MountOptions: fuse.MountOptions{
			FsName: v.Header().Label, Name: "vmfs", DirectMount: true, AllowOther: o.AllowOther, MaxReadAhead: readBytes, MaxWrite: readBytes,
			Options: []string{"ro", "nodev", "nosuid", "noexec", "default_permissions"}, Logger: log.New(io.Discard, "", 0),
		},
	}
	if o.Log != nil {
		options.Logger = slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn)
	}
	server, err := fs.Mount(dir, root, options)
	if err != nil {
		return fmt.Errorf("mount at %s: %w", dir, err)
	}
	if o.Ready != nil {
		o.Ready()
	}
	done := make(chan struct{})
	go func() {
		server.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
		if err := server.Unmount(); err != nil { // with a program that may do it
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	select {
	case <-done:
	case <-time.After(lingerTime):
	}
	return nil
}

// node is a file of the volume, by its path there.
type node struct {
	fs.Inode
	v    *vmfs.FS
	name string
}

var (
	_ fs.NodeLookuper   = (*node)(nil)
	_ fs.NodeReaddirer  = (*node)(nil)
	_ fs.NodeGetattrer  = (*node)(nil)
	_ fs.NodeOpener     = (*node)(nil)
	_ fs.NodeReadlinker = (*node)(nil)
	_ fs.NodeStatfser   = (*node)(nil)
	_ fs.FileReader     = (*handle)(nil)
	_ fs.FileLseeker    = (*handle)(nil)
)

// errno is what a system call gives for an error.
func errno(err error) syscall.Errno {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, iofs.ErrNotExist):
		return syscall.ENOENT
	case errors.Is(err, disk.ErrUnsupported):
		return syscall.EOPNOTSUPP
	}
	return syscall.EIO
}

func (n *node) below(name string) string {
	if n.name == "." {
		return name
	}
	return n.name + "/" + name
}

// attributes are those of a file. An RDM is a file here, of the LUN's length, that
// cannot be opened.
func attributes(fi iofs.FileInfo, out *fuse.Attr) {
	s := fi.Sys().(*vmfs.Stat)
	out.Ino, out.Size, out.Blksize, out.Nlink = uint64(s.Address), uint64(s.SizeBytes), readBytes, s.Links
	out.Blocks = (s.Units - min(s.TBZ, s.Units)) * uint64(max(s.UnitBytes, 0)) / 512
	out.Mode = uint32(fi.Mode().Perm()) | format(fi)
	out.Uid, out.Gid = s.UID, s.GID
	out.SetTimes(&s.Accessed, &s.Modified, &s.Changed)
}

func format(fi iofs.FileInfo) uint32 {
	switch {
	case fi.IsDir():
		return syscall.S_IFDIR
	case fi.Mode()&iofs.ModeSymlink != 0:
		return syscall.S_IFLNK
	}
	return syscall.S_IFREG
}

// Getattr implements fs.NodeGetattrer.
func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	fi, err := n.v.Lstat(n.name)
	if err != nil {
		return errno(err)
	}
	attributes(fi, &out.Attr)
	return 0
}

// Lookup implements fs.NodeLookuper.
func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	fi, err := n.v.Lstat(n.below(name))
	if err != nil {
		return nil, errno(err)
	}
	attributes(fi, &out.Attr)
	s := fi.Sys().(*vmfs.Stat)
	// A file of another generation is another file.
	id := fs.StableAttr{Mode: format(fi), Ino: uint64(s.Address), Gen: uint64(s.Generation)}
	return n.NewInode(ctx, &node{v: n.v, name: n.below(name)}, id), 0
}

// Readdir implements fs.NodeReaddirer. What is damaged is an error behind what is not.
func (n *node) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	entries, err := n.v.ReadDir(n.name)
	if err != nil && len(entries) == 0 {
		return nil, errno(err)
	}
	d := &dirStream{err: errno(err)}
	for _, e := range entries {
		row := fuse.DirEntry{Name: e.Name(), Mode: syscall.S_IFREG}
		switch {
		case e.IsDir():
			row.Mode = syscall.S_IFDIR
		case e.Type()&iofs.ModeSymlink != 0:
			row.Mode = syscall.S_IFLNK
		}
		d.rows = append(d.rows, row)
	}
	return d, 0
}

// dirStream gives rows, and then an error if there is one.
type dirStream struct {
	rows []fuse.DirEntry
	err  syscall.Errno
}

func (d *dirStream) HasNext() bool { return len(d.rows) > 0 || d.err != 0 }
func (d *dirStream) Close()        {}

func (d *dirStream) Next() (fuse.DirEntry, syscall.Errno) {
	if len(d.rows) == 0 {
		err := d.err
		d.err = 0
		return fuse.DirEntry{}, err
	}
	row := d.rows[0]
	d.rows = d.rows[1:]
	return row, 0
}

// Readlink implements fs.NodeReadlinker.
func (n *node) Readlink(context.Context) ([]byte, syscall.Errno) {
	target, err := n.v.ReadLink(n.name)
	return []byte(target), errno(err)
}

// Statfs implements fs.NodeStatfser. How much is free, nobody is told: it is not counted.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	h := n.v.Header()
	out.Bsize, out.Frsize, out.NameLen = uint32(h.BlockBytes), uint32(h.BlockBytes), 127
	out.Blocks = uint64(n.v.SizeBytes() / h.BlockBytes)
	return 0
}

// Open implements fs.NodeOpener.
func (n *node) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&(syscall.O_WRONLY|syscall.O_RDWR) != 0 {
		return nil, 0, syscall.EROFS
	}
	f, err := n.v.OpenFile(n.name)
	if err != nil {
		return nil, 0, errno(err)
	}
	if err := f.Readable(); err != nil {
		return nil, 0, errno(err)
	}
	return &handle{f}, 0, 0
}

// handle is an open file.
type handle struct{ f *vmfs.File }

// Read implements fs.FileReader.
func (h *handle) Read(_ context.Context, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n, err := h.f.ReadAt(p, off)
	if err != nil && err != io.EOF {
		return nil, errno(err)
	}
	return fuse.ReadResultData(p[:n]), 0
}

// Ways of lseek that FUSE passes on.
const (
	seekData = 3
	seekHole = 4
)

// Lseek implements fs.FileLseeker: it finds data, or a hole.
func (h *handle) Lseek(_ context.Context, off uint64, whence uint32) (uint64, syscall.Errno) {
	size := uint64(h.f.Size())
	if whence != seekData && whence != seekHole {
		return 0, syscall.EINVAL
	}
	if off >= size {
		return 0, syscall.ENXIO
	}
	for e, err := range h.f.Extents(int64(off), int64(size-off)) {
		if err != nil {
			return 0, errno(err)
		}
		if (e.Where == vmfs.Stored) == (whence == seekData) {
			return uint64(e.Offset), 0
		}
	}
	if whence == seekHole {
		return size, 0
	}
	return 0, syscall.ENXIO
}
