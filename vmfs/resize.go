// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/vmstream/vmstream/disk"
)

// Replace makes a file that takes the place of a regular file with Close: at any time the
// one or the other is in the directory. Mode and owner stay what they are.
func (w *Writer) Replace(name string, o CreateOptions) (*FileWriter, error) {
	old, err := w.replaceable(name)
	if err != nil {
		return nil, pathError("replace", name, err)
	}
	x, err := w.successor(name, old, o)
	if err == nil {
		err = x.start(o.Provisioning, 0)
	}
	if err != nil {
		return nil, pathError("replace", name, errors.Join(err, x.abort()))
	}
	return x, nil
}

// Resize gives a regular file another length. What is added reads as zeros and has the
// blocks that p says. As with Replace, the file is the old or the new one at any time; it
// has another file descriptor then, and the same blocks.
func (w *Writer) Resize(name string, sizeBytes int64, p Provisioning) error {
	return pathError("resize", name, w.resize(name, sizeBytes, p))
}

func (w *Writer) resize(name string, size int64, p Provisioning) error {
	old, err := w.replaceable(name)
	if err != nil || size == old.stat.SizeBytes {
		return err
	}
	o := CreateOptions{SizeBytes: size, Provisioning: p, Modified: w.now()}
	blockwise := !old.layout.resident && old.layout.unit == w.fs.header.BlockBytes
	if blockwise {
		o.Provisioning = ZeroedThick // nothing smaller than blocks
	}
	x, err := w.successor(name, old, o)
	if err == nil && blockwise {
		err = x.keep(old)
	} else if err == nil {
		err = x.copyFrom(old, p)
	}
	if err == nil {
		err = x.start(p, x.units(min(size, old.stat.SizeBytes)))
	}
	if err != nil {
		return errors.Join(err, x.abort())
	}
	return x.Close()
}

// replaceable finds a file that another one may take the place of.
func (w *Writer) replaceable(name string) (*inode, error) {
	n, err := w.fs.walk(name)
	switch {
	case err != nil:
		return nil, err
	case n.stat.Type != Regular:
		return nil, fmt.Errorf("is no regular file: %w", disk.ErrUnsupported)
	case n.stat.Lock.Mode != Unlocked:
		return nil, fmt.Errorf("is locked: %w", ErrInUse)
	case n.stat.Links != 1:
		return nil, fmt.Errorf("has %d links: %w", n.stat.Links, disk.ErrUnsupported)
	}
	_, err = w.owned(&n.layout) // what is damaged stays
	return n, err
}

// successor makes a file without content that takes the place of another one. It never
// returns nil.
func (w *Writer) successor(name string, old *inode, o CreateOptions) (*FileWriter, error) {
	if o.Mode == 0 {
		o.Mode = fs.FileMode(old.stat.Mode).Perm()
	}
	x, err := w.newFile(name, Regular, o)
	if err != nil {
		return &FileWriter{done: true}, err
	}
	// An entry of the directory has the generation, too, and just the address changes there.
	s := &x.n.stat
	x.old, s.Generation = old, old.stat.Generation
	s.Mode, s.UID, s.GID = old.stat.Mode&^uint32(fs.ModePerm)|uint32(o.Mode.Perm()), old.stat.UID, old.stat.GID
	return x, nil
}

// units is how many blocks or sub-blocks so many bytes have.
func (x *FileWriter) units(size int64) int64 {
	return (size + x.n.layout.unit - 1) / x.n.layout.unit
}

// copyFrom copies a file that has sub-blocks, or lies in its descriptor.
func (x *FileWriter) copyFrom(old *inode, p Provisioning) error {
	if err := x.start(Thin, 0); err != nil {
		return err
	}
	x.dense = p != Thin
	b := make([]byte, min(x.Size(), old.stat.SizeBytes))
	if err := old.layout.readFull(b, 0, "content"); err != nil {
		return err
	}
	return x.write(b, 0)
}

// keep takes over the blocks of the old file up to the shorter end, and its pointer blocks
// that need no change.
func (x *FileWriter) keep(old *inode) error {
	if err := x.cleanEnd(old); err != nil {
		return err
	}
	p := x.w.fs.pointers
	have := x.units(min(x.Size(), old.stat.SizeBytes))
	for first := int64(0); first < have; first += p {
		end := min(first+p, have)
		if block, ok, err := old.layout.pointersAt(first); err != nil {
			return err
		} else if ok && block == 0 {
			continue
		} else if ok && end == first+p && x.n.layout.zla != zlaBlocks {
			if err := x.setPointers(first, block); err != nil {
				return err
			}
			continue
		}
		for index := first; index < end; index++ {
			a, _, err := old.layout.addressOf(index, 0)
			if err != nil {
				return err
			}
			if a == 0 {
				continue
			}
			if err := x.set(index, a); err != nil {
				return err
			}
		}
	}
	return x.recount()
}

// cleanEnd makes zero what the last block has behind the end of a file that becomes longer.
func (x *FileWriter) cleanEnd(old *inode) error {
	l, end := &old.layout, old.stat.SizeBytes
	if x.Size() <= end || end%l.unit == 0 {
		return nil
	}
	s, err := l.lookup(end, 0)
	if err != nil || s.where != Stored {
		return err
	}
	return x.w.m.zero(s.offset, l.unit-end%l.unit)
}

// recount counts what the file has.
func (x *FileWriter) recount() error {
	o, err := x.w.owned(&x.n.layout)
	if err != nil {
		return err
	}
	x.n.stat.Units, x.n.stat.TBZ = uint64(len(o.blocks)+len(o.subBlocks)), o.toBeZeroed
	x.pointers = uint32(len(o.pointers) + len(o.pointers2))
	return nil
}

// pointersAt returns the pointer block that has the address of a unit, 0 if that is a hole;
// !ok if the file has none at all.
func (l *layout) pointersAt(index int64) (a address, ok bool, err error) {
	p := l.fs.pointers
	switch l.zla {
	case zlaPointers:
		return l.addrs[index/p], true, nil
	case zlaDouble:
		a := l.addrs[index/p/p]
		if a == 0 {
			return 0, true, nil
		}
		block, err := l.pointerBlock(a, index*l.unit, 0)
		if err != nil {
			return 0, true, err
		}
		return block[index/p%p], true, nil
	}
	return 0, false, nil
}

// replace has the file take the place of the old one. committed says that it has.
func (x *FileWriter) replace() (committed bool, err error) {
	w := x.w
	defer w.forget()
	if err := x.flush(); err != nil {
		return false, err
	}
	if err := w.m.sync(); err != nil { // before anybody sees it
		return false, err
	}
	if err := w.swapEntry(x.name, x.old, x.n); err != nil {
		return false, err
	}
	if err := w.m.sync(); err != nil { // before anything of the old one is used again
		return true, err
	}
	return true, w.drop(x.old, x.n)
}

// swapEntry has an entry of a directory lead to another file of the same generation, with
// one write of four bytes, which are in one sector.
func (w *Writer) swapEntry(name string, old, n *inode) error {
	dir, err := w.fs.walk(path.Dir(name))
	if err != nil {
		return err
	}
	x := &FileWriter{w: w, n: dir, dense: true}
	b := make(fields, dir.layout.size)
	if err := dir.layout.readFull(b, 0, "directory"); err != nil {
		return err
	}
	for off := 0; off+entryLen <= len(b); off += entryLen {
		if e := b[off:][:entryLen]; e.u32(entryAddress) != old.stat.Address || e.text(entryName, entryNameLen) != path.Base(name) {
			continue
		}
		to := make(fields, 4)
		to.put32(0, n.stat.Address)
		return x.write(to, int64(off)+entryAddress)
	}
	return fs.ErrNotExist
}

// drop gives back all that a file has and another one, if there is one, has not, and its
// descriptor last.
func (w *Writer) drop(n, kept *inode) error {
	defer w.forget()
	o, err := w.owned(&n.layout)
	if err != nil {
		return err
	}
	if kept != nil {
		k, err := w.owned(&kept.layout)
		if err != nil {
			return err
		}
		o.subtract(k)
	}
	links := make(fields, 4)
	if err := w.m.write(links, n.stat.Offset+512+8); err != nil {
		return err
	}
	if err := w.release(o); err != nil {
		return err
	}
	return w.fdc.release([]uint64{w.fdc.number(descriptorID(n.stat.Address))})
}

// subtract takes out what another file has.
func (o *owned) subtract(other *owned) {
	for _, p := range []struct {
		from *[]uint64
		all  []uint64
	}{{&o.blocks, other.blocks}, {&o.subBlocks, other.subBlocks}, {&o.pointers, other.pointers}, {&o.pointers2, other.pointers2}} {
		all := sortedCopy(p.all)
		*p.from = slices.DeleteFunc(*p.from, func(n uint64) bool {
			_, found := slices.BinarySearch(all, n)
			return found
		})
	}
}
