// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// opExtend has no journal: a single replacement ends it.
const opExtend Operation = "extend"

// ExtendOptions say how far a disk is extended.
type ExtendOptions struct {
	Options

	SizeBytes int64 // new capacity, whole sectors
	DryRun    bool  // check everything, write nothing

	// Rewrite makes the sparse disk at path anew with that capacity and geometry, and
	// gives it the old one's name when it is complete. nil refuses sparse disks.
	Rewrite func(ctx context.Context, path string, sizeBytes int64, g vmdk.Geometry) error

	// Files changes the files, if Tree is not the operating system's. The caller keeps
	// others from them.
	Files Files
}

// Files changes files of disks where the operating system has them not.
type Files interface {
	// Lengthen makes a file longer, durably; what is added reads as zeros. thin says that the
	// file is to have no more blocks than are needed.
	Lengthen(path string, sizeBytes int64, thin bool) error
	// Replace gives a file another content, durably; after a crash it has one or the other.
	Replace(path string, content []byte) error
}

// Extended is what Extend has done or, with DryRun, would do.
type Extended struct {
	Path               string
	OldBytes, NewBytes int64 // capacity
	Rewritten          bool  // the disk is a new file
}

// Extend makes a disk larger; what is added reads as zeros. The disk has to be a single
// link that nobody uses: no redo log, no parent, no child. Raw disks of ESX 2.x, flat
// disks, and sparse ones of hosted products can be extended; others give ErrUnsupported. A
// crash leaves the disk as it was or as it is to be; a flat file may be longer than its
// descriptor says then, and Extend again completes it; a split disk may have left new
// files that are no part of it.
func Extend(ctx context.Context, path string, o ExtendOptions) (*Extended, error) {
	o.fill()
	if o.SizeBytes <= 0 || o.SizeBytes%disk.SectorSize != 0 || o.SizeBytes > disk.MaxSize {
		return nil, chainError(path, disk.ErrUnsupported, "%d bytes: a capacity is a number of sectors of 512 bytes, up to %d bytes", o.SizeBytes, int64(disk.MaxSize))
	}
	if o.Tree == nil || o.Files == nil {
		_, unlock, err := begin(path, opExtend, &o.Options)
		if err != nil {
			return nil, err
		}
		defer unlock()
		o.Files = osFiles{o.FS}
	}
	c, err := findChain(path, &o.Options)
	if err != nil {
		return nil, err
	}
	im, err := c.mayExtend(&o)
	if err != nil {
		return nil, err
	}
	e := &Extended{Path: c.top().path, OldBytes: im.Size(), NewBytes: o.SizeBytes}
	if err := im.Close(); err != nil {
		return nil, err
	}
	if e.OldBytes > o.SizeBytes {
		return nil, chainError(e.Path, disk.ErrUnsupported, "it has %d bytes already; it cannot become smaller", e.OldBytes)
	}
	if o.DryRun || e.OldBytes == e.NewBytes {
		return e, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	return e, c.extend(ctx, &o, e)
}

// mayExtend refuses a disk that is not alone or in use, and opens it.
func (c *chain) mayExtend(o *ExtendOptions) (*vmdk.Disk, error) {
	top := c.top()
	if len(c.levels) > 1 || len(c.branches) > 0 {
		return nil, chainError(top.path, disk.ErrUnsupported, "it has redo logs or snapshots: commit or discard them first")
	}
	if err := c.checkConfig(&o.Options); err != nil {
		return nil, err
	}
	files, err := c.filesOf(top)
	if err != nil {
		return nil, err
	}
	if !o.AllowInUse && o.Tree == nil {
		if err := checkUse(exclusive, files...); err != nil {
			return nil, err
		}
	}
	if top.desc != nil {
		if err := refuseExtend(top, o); err != nil {
			return nil, err
		}
	}
	return c.open(&o.Options)
}

func refuseExtend(l *level, o *ExtendOptions) error {
	d := l.desc.Descriptor
	no := func(format string, args ...any) error {
		return chainError(l.path, disk.ErrUnsupported, format, args...)
	}
	mapping, _ := rawMapping(d)
	tracked := slices.ContainsFunc(d.Header, func(e vmdk.Entry) bool { return strings.EqualFold(e.Key, keyChangeTrack) })
	switch {
	case mapping:
		return no("it maps a LUN, which is extended where it is")
	case tracked:
		return no("its changed blocks are tracked: turn that off first")
	case isSplit(d) && o.Tree == nil:
		return refuseSplit(l)
	case len(d.Extents) != 1:
		return no("it has %d extents; make it one of another format with vmstream disk convert", len(d.Extents))
	case d.Extents[0].Type == vmdk.ExtentFlat, d.Extents[0].Type == vmdk.ExtentVMFS:
		return nil
	case l.desc.Embedded && o.Rewrite != nil && !strings.EqualFold(d.CreateType, vmdk.TypeStreamOptimized):
		return nil
	}
	return no("it is of type %s; make it one of another format with vmstream disk convert", d.CreateType)
}

func (c *chain) extend(ctx context.Context, o *ExtendOptions, e *Extended) error {
	l := c.top()
	switch {
	case l.desc == nil:
		return o.lengthen(l.path, e.OldBytes, o.SizeBytes, false)
	case l.desc.Embedded:
		e.Rewritten = true
		return o.Rewrite(ctx, l.path, o.SizeBytes, extendedGeometry(l.desc.Descriptor, o.SizeBytes))
	case isSplit(l.desc.Descriptor):
		return c.extendSplit(o, e)
	}
	files, err := c.filesOf(l)
	if err != nil {
		return err
	}
	x := l.desc.Descriptor.Extents[0]
	start := x.OffsetSectors * disk.SectorSize
	x.Sectors = o.SizeBytes / disk.SectorSize
	text, err := extendedText(l, o.SizeBytes, x)
	if err != nil {
		return err
	}
	thin := l.desc.Descriptor.DDBValue(keyThin) == "1"
	// The file first: one that is longer than its descriptor says is read as before.
	if err := o.lengthen(files[1], start+e.OldBytes, start+o.SizeBytes, thin); err != nil {
		return err
	}
	return o.Files.Replace(l.path, text)
}

// lengthen makes a file longer. What is behind its end so far has to be zero: it was left
// by a run that was stopped.
func (o *ExtendOptions) lengthen(path string, oldBytes, newBytes int64, thin bool) error {
	im, err := o.place().Open(path)
	if err != nil {
		return err
	}
	size := im.Size()
	err = checkZero(im, oldBytes)
	if err := errors.Join(err, im.Close()); err != nil || size >= newBytes {
		return err
	}
	return o.Files.Lengthen(path, newBytes, thin)
}

// osFiles are those of the operating system.
type osFiles struct{ fs FS }

// Lengthen implements Files.
func (o osFiles) Lengthen(path string, sizeBytes int64, _ bool) error {
	f, err := o.fs.Open(path)
	if err != nil {
		return err
	}
	if err := f.Truncate(sizeBytes); err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(f.Sync(), f.Close())
}

// Replace implements Files.
func (o osFiles) Replace(path string, content []byte) error { return ReplaceFile(o.fs, path, content) }

// checkZero refuses a file with anything but zeros from an offset on.
func checkZero(im disk.RawFile, from int64) error {
	b := make([]byte, 1<<20)
	for r, err := range im.Runs(from, max(im.Size()-from, 0)) {
		if err != nil {
			return err
		}
		for off := r.Offset; off < r.End() && r.Kind == disk.Data; off += int64(len(b)) {
			p := b[:min(int64(len(b)), r.End()-off)]
			if err := disk.ReadFull(im, p, off); err != nil {
				return err
			}
			if !disk.IsZero(p) {
				return &disk.FormatError{File: im.Name(), Offset: off, Err: disk.ErrMismatch, Detail: "there is something behind the end of the disk, which would become a part of it"}
			}
		}
	}
	return nil
}

const (
	keyCylinders = "ddb.geometry.cylinders"
	keyThin      = "ddb.thinProvisioned"
)

// extendedGeometry is that of a disk with another capacity: heads and sectors, which a
// guest's partitions may depend on, stay.
func extendedGeometry(d *vmdk.Descriptor, sizeBytes int64) vmdk.Geometry {
	number := func(key string) uint32 {
		n, _ := strconv.ParseUint(d.DDBValue(key), 10, 32)
		return uint32(n)
	}
	sectors := sizeBytes / disk.SectorSize
	g := vmdk.Geometry{Cylinders: number(keyCylinders), Heads: number("ddb.geometry.heads"), Sectors: number("ddb.geometry.sectors")}
	computed := vmdk.GeometryFor(d.DDBValue("ddb.adapterType"), sectors)
	if g.Cylinders == 0 || g.Heads == 0 || g.Sectors == 0 {
		return computed
	}
	most := int64(1)<<32 - 1
	if g.Heads == 16 && g.Sectors == 63 {
		most = max(16383, int64(g.Cylinders)) // where the geometry of ATA ends
	}
	g.Cylinders = uint32(min(max(sectors/(int64(g.Heads)*int64(g.Sectors)), int64(g.Cylinders)), most))
	return g
}

// extendedText returns the text of a descriptor with another capacity, whose last extent has
// become other ones. Their lines look like its line, and are where that was.
func extendedText(l *level, sizeBytes int64, with ...vmdk.Extent) ([]byte, error) {
	before, was := splitLast(l.desc.Descriptor.Extents)
	name := []byte(`"` + was.Name + `"`)
	var out []byte
	found := 0
	for line := range bytes.Lines(l.desc.Text) {
		at := sectorsAt(line, was.Sectors)
		if at < 0 || !bytes.Contains(line, name) {
			out = append(out, line...)
			continue
		}
		found++
		if len(with) > 1 && !bytes.HasSuffix(line, []byte("\n")) {
			line = append(bytes.Clone(line), '\n')
		}
		end := at + len(strconv.FormatInt(was.Sectors, 10))
		for _, x := range with {
			rest := bytes.Replace(line[end:], name, []byte(`"`+x.Name+`"`), 1)
			out = slices.Concat(out, line[:at], strconv.AppendInt(nil, x.Sectors, 10), rest)
		}
	}
	if err := checkExtents(l.path, out, found, slices.Concat(before, with)); err != nil {
		return nil, err
	}
	return extendedCylinders(l, out, sizeBytes)
}

// splitLast takes the last extent off.
func splitLast(all []vmdk.Extent) ([]vmdk.Extent, vmdk.Extent) {
	return all[:len(all)-1], all[len(all)-1]
}

// extendedCylinders returns the text with the cylinders of another capacity, if it has any.
func extendedCylinders(l *level, text []byte, sizeBytes int64) ([]byte, error) {
	d := l.desc.Descriptor
	if d.DDBValue(keyCylinders) == "" {
		return text, nil
	}
	g := extendedGeometry(d, sizeBytes)
	return editDescriptor(l.path, text, map[string]string{keyCylinders: strconv.FormatUint(uint64(g.Cylinders), 10)})
}

// sectorsAt returns where the line of an extent has its length, -1 if it is none with so
// many sectors.
func sectorsAt(line []byte, sectors int64) int {
	words := bytes.Fields(line)
	if len(words) < 4 || !slices.Contains([]string{"RW", "RDONLY"}, strings.ToUpper(string(words[0]))) || string(words[1]) != strconv.FormatInt(sectors, 10) {
		return -1
	}
	access := bytes.Index(line, words[0]) + len(words[0])
	return access + bytes.Index(line[access:], words[1])
}

// checkExtents reads a changed text back: it has to have these extents.
func checkExtents(path string, text []byte, found int, want []vmdk.Extent) error {
	d, err := vmdk.ParseDescriptor(text)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	if found != 1 || !slices.Equal(d.Extents, want) {
		return chainError(path, disk.ErrCorrupt, "the line of its last extent is not found")
	}
	return nil
}
