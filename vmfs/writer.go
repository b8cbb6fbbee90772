// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/lru"
)

// Writer changes a volume of VMFS-3 or VMFS-5 that nobody else uses. It is not safe for
// concurrent use, and takes no locks: hosts must not have the volume mounted.
//
// What is written comes in an order that leaves a volume which can be read whenever it
// stops: what a file has is taken in the bitmaps first, then written, then the file
// descriptor, and the entry in the directory last; a crash may leave resources that are
// lost, which Check finds.
type Writer struct {
	fs                         *FS
	m                          *medium
	now                        func() time.Time
	blocks, fdc, sbc, pbc, pb2 *allocator
	open                       int // files that are being written
}

// OpenWriter opens a volume for writing. A volume with a heartbeat in use is refused with
// ErrInUse, whether its host lives or not: the journal of one that has crashed may have
// changes that are not in place yet. All devices have to be there.
func OpenWriter(devices []WriteDevice, o Options) (*Writer, error) {
	if o.AllowMissing {
		return nil, fmt.Errorf("VMFS: a volume is not written without all of its devices: %w", disk.ErrUnsupported)
	}
	f, err := Open(readers(devices), o)
	if err != nil {
		return nil, err
	}
	if f.header.wide() {
		return nil, fmt.Errorf("VMFS: %v is not written, its bitmaps are not public: %w", f.header.Generation, disk.ErrUnsupported)
	}
	if err := f.refuseInUse(fmt.Sprintf("volume %q", f.header.Label)); err != nil {
		return nil, err
	}
	bitmap, err := f.blockTable()
	if err != nil {
		return nil, err
	}
	w := &Writer{fs: f, m: &medium{f.vol, devices}, now: time.Now}
	for _, t := range []struct {
		to  **allocator
		res *resources
	}{{&w.blocks, bitmap}, {&w.fdc, f.fdc}, {&w.sbc, f.sbc}, {&w.pbc, f.pbc}, {&w.pb2, f.pb2}} {
		if t.res == nil {
			t.res = &resources{}
		}
		if t.res.perCluster > clusterBitmapLen*8 {
			return nil, t.res.file.corrupt(t.res.name+" header", 0, "%d resources in a cluster, its bitmap has room for %d", t.res.perCluster, clusterBitmapLen*8)
		}
		*t.to = &allocator{w: w, res: t.res}
	}
	w.fdc.first, w.fdc.next = 1, 1 // the first ones are the system's, also those of later versions
	return w, nil
}

// FS returns the volume for reading. It is not to be used while something is written.
func (w *Writer) FS() *FS { return w.fs }

// FreeBytes returns how much is free in blocks of files, by the counters of all clusters.
func (w *Writer) FreeBytes() (int64, error) {
	n, err := w.blocks.free()
	return int64(n) * w.fs.header.BlockBytes, err
}

// Close has the devices keep all that was written. It does not close them.
func (w *Writer) Close() error {
	if w.open > 0 {
		return fmt.Errorf("VMFS: %d files are still being written: %w", w.open, fs.ErrInvalid)
	}
	return w.m.sync()
}

// forget drops what the reader keeps in memory.
func (w *Writer) forget() {
	w.fs.blocks, w.fs.folders = lru.New[address, []address](pointerCacheBytes), lru.New[uint32, *directory](directoryCacheBytes)
}

// SetLabel changes the label of the volume.
func (w *Writer) SetLabel(label string) error {
	if len(label) > MaxLabelBytes || strings.ContainsAny(label, "/\x00") {
		return fmt.Errorf("VMFS: %q is no label: %w", label, fs.ErrInvalid)
	}
	b := make([]byte, 128)
	copy(b, label)
	if err := w.m.write(b, headerAt+0x1D); err != nil {
		return err
	}
	w.fs.header.Label = label
	return nil
}

// MaxNameBytes is the length of the longest name of a file.
const MaxNameBytes = 127

// place finds the directory that a new name is to be in.
func (w *Writer) place(name string) (*inode, string, error) {
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	if !validPath(name) || name == "." || len(base) > MaxNameBytes || strings.ContainsRune(base, 0) {
		return nil, "", fs.ErrInvalid
	}
	n, err := w.fs.walk(dir)
	switch {
	case err != nil:
		return nil, "", err
	case n.stat.Type != Directory:
		return nil, "", errors.New("a part of it is no directory of files")
	}
	d, err := w.fs.readDirectory(n)
	if err != nil {
		return nil, "", err
	}
	if err := d.err(); err != nil {
		return nil, "", err // who adds to what is damaged makes it worse
	}
	if _, ok := d.find(base); ok {
		return nil, "", fs.ErrExist
	}
	return n, base, nil
}

// newInode takes a file descriptor.
func (w *Writer) newInode(t Type, mode uint32, size int64, mtime time.Time) (*inode, error) {
	numbers, err := w.fdc.take(1)
	if err != nil {
		return nil, err
	}
	id := w.fdc.id(numbers[0])
	n := &inode{stat: Stat{
		Address: descriptorAddress(id), Generation: 1, Links: 1, Type: t, SizeBytes: size, Mode: mode,
		UnitBytes: w.fs.header.BlockBytes, AddrType: zlaBlocks,
	}}
	if mtime.IsZero() {
		mtime = w.now()
	}
	n.stat.stamp(mtime.UTC())
	if n.stat.Offset, err = w.offset(w.fs.fdc, id); err != nil {
		return nil, errors.Join(err, w.fdc.release(numbers))
	}
	old := make(fields, w.fs.header.fdBytes())
	if err := w.fs.vol.readFull(old, n.stat.Offset, "file descriptor"); err != nil {
		return nil, errors.Join(err, w.fdc.release(numbers))
	}
	if g := old[512:].u32(4); old.u32(0) == lockTypeFD && g < 1<<31 {
		n.stat.Generation = g + 1 // it was another file
	}
	n.layout = layout{fs: w.fs, name: fmt.Sprintf("file %08x", n.stat.Address), at: n.stat.Offset, size: size, unit: n.stat.UnitBytes, zla: zlaBlocks, addrs: make([]address, w.fs.header.fdPlaces().arrayLen)}
	return n, nil
}

// offset is where in the volume a resource is.
func (w *Writer) offset(r *resources, id resourceID) (int64, error) {
	at, err := r.position(id)
	if err != nil {
		return 0, err
	}
	s, err := r.file.extend(at, r.bytes, 0)
	if err != nil {
		return 0, err
	}
	if s.where != Stored || s.length < r.bytes {
		return 0, fmt.Errorf("VMFS: %s: %d of cluster %d is not in one piece: %w", r.name, id.index, id.cluster, disk.ErrCorrupt)
	}
	return s.offset, nil
}

// Mkdir makes a directory.
func (w *Writer) Mkdir(name string, mode fs.FileMode) error {
	return pathError("mkdir", name, w.mkdir(name, mode))
}

func (w *Writer) mkdir(name string, mode fs.FileMode) error {
	parent, base, err := w.place(name)
	if err != nil {
		return err
	}
	if parent.stat.Links >= 1<<16 {
		return fmt.Errorf("VMFS: the directory has too many directories: %w", ErrFull)
	}
	n, err := w.newInode(Directory, uint32(mode.Perm()), 0, time.Time{})
	if err != nil {
		return err
	}
	x := &FileWriter{w: w, n: n, dense: true}
	n.stat.Links, n.stat.UnitBytes, n.stat.AddrType = 2, w.fs.sbc.bytes, zlaSubBlocks
	n.layout.unit, n.layout.zla = n.stat.UnitBytes, zlaSubBlocks
	b := append(encodeEntry(dirEntry{Directory, n.stat.Address, n.stat.Generation, "."}),
		encodeEntry(dirEntry{Directory, parent.stat.Address, parent.stat.Generation, ".."})...)
	n.stat.SizeBytes, n.layout.size = int64(len(b)), int64(len(b))
	if err := x.write(b, 0); err != nil {
		return errors.Join(err, x.drop())
	}
	if err := x.flush(); err != nil {
		return errors.Join(err, x.drop())
	}
	// The count first: one that is too high keeps a directory, one too low may not.
	parent.stat.Links++
	if err := w.addEntry(parent, dirEntry{Directory, n.stat.Address, n.stat.Generation, base}); err != nil {
		return errors.Join(err, x.drop())
	}
	return nil
}

// addEntry adds an entry to a directory, in a place that is not in use or else at its end,
// and writes its descriptor.
func (w *Writer) addEntry(dir *inode, e dirEntry) error {
	defer w.forget()
	x := &FileWriter{w: w, n: dir, dense: true}
	if err := x.countPointers(); err != nil {
		return err
	}
	b := make(fields, dir.layout.size)
	if err := dir.layout.readFull(b, 0, "directory"); err != nil {
		return err
	}
	dir.stat.Modified, dir.stat.Changed = w.now().UTC(), w.now().UTC()
	for off := 0; off+entryLen <= len(b); off += entryLen {
		if b[off:].u32(entryAddress) != 0 {
			continue
		}
		if err := x.flush(); err != nil { // its count of links before the link
			return err
		}
		return x.putEntry(encodeEntry(e), int64(off))
	}
	off := dir.layout.size
	if off+entryLen > int64(len(dir.layout.addrs))*dir.layout.unit {
		return fmt.Errorf("VMFS: the directory has no room for more entries: %w", ErrFull)
	}
	dir.layout.size += entryLen
	dir.stat.SizeBytes = dir.layout.size
	if err := x.write(encodeEntry(e), off); err != nil {
		return err
	}
	return x.flush()
}

// removeEntry takes an entry out of a directory; the last one takes its place. That is
// there twice for a time, which readers know: see [directory].
func (w *Writer) removeEntry(dir *inode, name string) error {
	defer w.forget()
	x := &FileWriter{w: w, n: dir, dense: true}
	if err := x.countPointers(); err != nil {
		return err
	}
	b := make(fields, dir.layout.size)
	if err := dir.layout.readFull(b, 0, "directory"); err != nil {
		return err
	}
	found := false
	for off := 0; off+entryLen <= len(b); off += entryLen {
		e := b[off:][:entryLen]
		if e.u32(entryAddress) == 0 || e.text(entryName, entryNameLen) != name {
			continue
		}
		found = true
		e.put32(entryAddress, 0)
		if err := x.write(e[entryAddress:][:4], int64(off)+entryAddress); err != nil {
			return err
		}
	}
	if !found {
		return fs.ErrNotExist
	}
	end, err := x.compact(b)
	if err != nil {
		return err
	}
	dir.stat.SizeBytes, dir.layout.size = int64(end), int64(end)
	dir.stat.Modified, dir.stat.Changed = w.now().UTC(), w.now().UTC()
	return x.flush()
}

// compact moves the last entries of a directory to where entries are not in use, and
// returns where the directory ends then.
func (x *FileWriter) compact(b fields) (int, error) {
	end := usedEntries(b)
	for off := 0; off < end; off += entryLen {
		if b[off:].u32(entryAddress) != 0 {
			continue
		}
		copy(b[off:off+entryLen], b[end-entryLen:end])
		if err := x.putEntry(b[off:off+entryLen], int64(off)); err != nil {
			return 0, err
		}
		end = usedEntries(b[:end-entryLen])
	}
	return end, nil
}

// putEntry writes an entry where none is in use. It is there with the last write.
func (x *FileWriter) putEntry(e fields, off int64) error {
	unused := append(fields(nil), e...)
	unused.put32(entryAddress, 0)
	if err := x.write(unused, off); err != nil {
		return err
	}
	return x.write(e[entryAddress:][:4], off+entryAddress)
}

// usedEntries is where the last entry of a directory ends that is in use.
func usedEntries(b fields) int {
	end := len(b) / entryLen * entryLen
	for end > 0 && b[end-entryLen:].u32(entryAddress) == 0 {
		end -= entryLen
	}
	return end
}

// Symlink makes a symbolic link. Hosts have absolute paths of their own as targets.
func (w *Writer) Symlink(target, name string) error {
	const maxTarget = 1023
	if target == "" || len(target) > maxTarget || strings.ContainsRune(target, 0) {
		return pathError("symlink", name, fs.ErrInvalid)
	}
	x, err := w.create(name, Symlink, CreateOptions{SizeBytes: int64(len(target)), Mode: 0o777})
	if err != nil {
		return pathError("symlink", name, err)
	}
	if err := x.write([]byte(target), 0); err != nil {
		return pathError("symlink", name, errors.Join(err, x.abort()))
	}
	return x.Close()
}

// Remove removes a file, a symbolic link, a raw device mapping, or an empty directory.
// What a host has locked, or has left locked, is refused with ErrInUse.
func (w *Writer) Remove(name string) error { return pathError("remove", name, w.remove(name)) }

func (w *Writer) remove(name string) error {
	if name == "." {
		return fs.ErrInvalid
	}
	n, err := w.fs.walk(name)
	if err != nil {
		return err
	}
	dir, err := w.fs.walk(path.Dir(name))
	if err != nil {
		return err
	}
	switch {
	case n.stat.Type == System:
		return fmt.Errorf("is a file of the system: %w", fs.ErrPermission)
	case n.stat.Lock.Mode != Unlocked:
		return fmt.Errorf("is locked: %w", ErrInUse)
	}
	if n.stat.isDir() {
		d, err := w.fs.readDirectory(n)
		if err != nil {
			return err
		}
		if len(d.entries) > 0 || d.err() != nil {
			return errors.Join(errors.New("the directory is not empty"), d.err())
		}
		dir.stat.Links--
	}
	if _, err := w.owned(&n.layout); err != nil { // what is damaged stays
		return err
	}
	if err := w.removeEntry(dir, path.Base(name)); err != nil {
		return err
	}
	return w.drop(n, nil)
}

// owned is what a file has, by what it is of.
type owned struct {
	blocks, subBlocks, pointers, pointers2 []uint64

	toBeZeroed uint64 // blocks
}

// owned goes through the addresses of a file.
func (w *Writer) owned(l *layout) (*owned, error) {
	o := &owned{}
	if l.resident {
		return o, nil
	}
	levels := map[uint32]int{zlaPointers: 1, zlaPointers2: 1, zlaDouble: 2}[l.zla]
	var tree func(a address, levels int) error
	tree = func(a address, levels int) error {
		if a == 0 {
			return nil
		}
		id := w.fs.header.resource(a)
		var err error
		switch k := a.kind(); {
		case levels == 0 && k == kindBlock:
			at, _, tbz := w.fs.header.block(a)
			if tbz {
				o.toBeZeroed++
			}
			return w.blocks.collect(&o.blocks, w.blocks.id(uint64(at>>w.fs.header.blockBits())), l)
		case levels == 0 && k == kindSubBlock:
			return w.sbc.collect(&o.subBlocks, id, l)
		case levels > 0 && k == kindPointers:
			err = w.pbc.collect(&o.pointers, id, l)
		case levels > 0 && k == kindPointers2:
			err = w.pb2.collect(&o.pointers2, id, l)
		default:
			err = l.corrupt("address", 0, "%x, %v", uint64(a), k)
		}
		if err != nil {
			return err
		}
		block, err := l.pointerBlock(a, 0, 0)
		if err != nil {
			return err
		}
		for _, a := range block {
			if err := tree(a, levels-1); err != nil {
				return err
			}
		}
		return nil
	}
	for _, a := range l.addrs {
		if err := tree(a, levels); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// collect adds a resource that a file has, if it can be. A file that has more than
// there are has some of them twice.
func (a *allocator) collect(all *[]uint64, id resourceID, l *layout) error {
	n := a.number(id)
	if id.index >= a.res.perCluster || id.cluster > a.res.total || n >= a.res.total || uint64(len(*all)) == a.res.total {
		return l.corrupt("address", 0, "%d of cluster %d of %s, which has %d resources: check the volume", id.index, id.cluster, a.res.name, a.res.total)
	}
	*all = append(*all, n)
	return nil
}

// release gives all of it back.
func (w *Writer) release(o *owned) error {
	return errors.Join(w.blocks.release(o.blocks), w.sbc.release(o.subBlocks), w.pbc.release(o.pointers), w.pb2.release(o.pointers2))
}

// sortedCopy is what release wants.
func sortedCopy(all []uint64) []uint64 {
	c := slices.Clone(all)
	slices.Sort(c)
	return c
}
