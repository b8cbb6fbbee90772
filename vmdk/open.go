// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// SourceFormat says what a named file is, if it is not to be found out.
type SourceFormat string

// The source formats.
const (
	SourceAuto SourceFormat = ""     // find out
	SourceRaw  SourceFormat = "raw"  // the bytes of the disk, whatever they look like
	SourceVMDK SourceFormat = "vmdk" // a VMDK, whatever its name
)

// Role says who named a file.
type Role int

// The roles.
const (
	RoleNamed Role = iota // an operator
	// RoleConfigured is a file that a VM's configuration names as a disk: a
	// VMDK, or else a raw disk of ESX 2.x, which has no descriptor.
	RoleConfigured
)

// Options say how to open a disk. The zero value is a good choice.
type Options struct {
	Format SourceFormat // of the named file
	Role   Role         // of the named file

	// AllowOutside lets descriptors name files outside their directory, and
	// devices.
	AllowOutside bool

	// PadShort reads zeros where a flat file is shorter than its descriptor
	// says. Otherwise that is an error.
	PadShort bool

	// Frozen says that a redo log is to be expected over the one that is opened
	// with OpenRedo: that it is not read is no news.
	Frozen bool

	// Tree is where the files lie; nil stands for the operating system's.
	Tree disk.Tree

	// Warn takes a short line about something odd that does not keep the disk
	// from being read. It is called from any goroutine that reads, one call at
	// a time, and must not call back. nil discards.
	Warn func(string)
}

func (o *Options) validate() error {
	switch o.Format {
	case SourceAuto, SourceRaw, SourceVMDK:
		return nil
	}
	return fmt.Errorf("source format %q: known are raw and vmdk: %w", o.Format, disk.ErrUnsupported)
}

// Disk is an open virtual disk with its whole chain: the content that a VM
// sees. It is safe for concurrent use, except that Close must come last.
type Disk struct {
	image disk.Image
	links []*Link
	info  Info
}

var _ disk.Image = (*Disk)(nil)

// Open opens the disk that path names, with all its extents and parents,
// read-only.
//
// Block devices and files called .raw or .dd are raw disks, whatever their
// bytes say. Otherwise a VMDK magic or a descriptor decides; without one, .img
// is raw and everything else an error that wraps [disk.ErrUnknown]. A file not
// called .vmdk may not name other files. What descriptors name is never
// probed: the keyword of the extent line says what it is. A redo log of ESX
// 2.x, called .REDO, is opened as [OpenRedo] does it.
func Open(path string, o Options) (*Disk, error) {
	op, err := newOpener(o)
	if err != nil {
		return nil, err
	}
	e, err := op.openEntry(path)
	if err != nil {
		return nil, err
	}
	if e.kind == kindCOWD && isRedoName(path) && o.Format != SourceVMDK {
		if err := e.file.Close(); err != nil {
			return nil, err
		}
		return op.openRedo(path)
	}
	top, err := op.openNamed(e, false)
	if err != nil {
		return nil, err
	}
	return op.finish(op.openChain(top))
}

// OpenLink opens one link alone, without its parents: what it does not store
// is of kind Parent. A COWD file needs no descriptor here; it is taken for a
// child unless its header has the geometry that only a root has.
func OpenLink(path string, o Options) (*Link, error) {
	op, err := newOpener(o)
	if err != nil {
		return nil, err
	}
	e, err := op.openEntry(path)
	if err != nil {
		return nil, err
	}
	l, err := op.openNamed(e, true)
	if err != nil {
		return nil, err
	}
	return l.link, nil
}

// finish makes a disk of the links of a chain, the top one first. On an error
// the links are closed.
func (op *opener) finish(links []*Link, err error) (*Disk, error) {
	if err != nil {
		return nil, errors.Join(err, closeLinks(links))
	}
	d := &Disk{links: links, info: describe(links)}
	for _, l := range slices.Backward(links) {
		if d.image == nil {
			d.image = l
			continue
		}
		if d.image, err = disk.Overlay(l, d.image); err != nil {
			return nil, errors.Join(err, closeLinks(links))
		}
	}
	return d, nil
}

func closeLinks(links []*Link) error {
	var errs []error
	for _, l := range links {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// Size returns the capacity in bytes.
func (d *Disk) Size() int64 { return d.image.Size() }

// ReadAt reads the content of the chain; see [disk.Image]. Damage that only
// shows when a table or a grain is looked at is an error here, never zeros.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) { return d.image.ReadAt(p, off) }

// Runs yields runs of kind Data and Zero; see [disk.Image].
func (d *Disk) Runs(off, n int64) iter.Seq2[disk.Run, error] { return d.image.Runs(off, n) }

// Prefetch tells the links; see [disk.Prefetcher].
func (d *Disk) Prefetch(off, n int64) { disk.Prefetch(d.image, off, n) }

// Close closes all files.
func (d *Disk) Close() error { return closeLinks(d.links) }

// Info returns what is known about the disk. It must not be changed.
func (d *Disk) Info() Info { return d.info }

// Check reads all tables of all links; see [Link.Check].
func (d *Disk) Check(ctx context.Context) error {
	for _, l := range d.links {
		if err := l.Check(ctx); err != nil {
			return err
		}
	}
	return nil
}

// entryFile is the file that somebody named.
type entryFile struct {
	file disk.RawFile
	kind fileKind
	dir  directoryOf
}

// openEntry opens a named file and decides what it is.
func (op *opener) openEntry(path string) (*entryFile, error) {
	f, err := op.tree.Open(path)
	if err != nil {
		return nil, err
	}
	kind, err := op.classify(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// Names in a descriptor are relative to where it really lies.
	place, err := op.tree.RealPath(path)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &entryFile{file: f, kind: kind, dir: directoryOf{
		tree: op.tree, path: filepath.Dir(place), referrer: path, allowOutside: op.options.AllowOutside,
		nothing: op.options.Format == SourceAuto && !strings.EqualFold(filepath.Ext(path), ".vmdk"),
	}}, nil
}

// classify is the one place where the bytes of a file decide what it is.
func (op *opener) classify(f disk.RawFile) (fileKind, error) {
	fail := func(kind error, detail string) (fileKind, error) {
		return kindNone, &disk.FormatError{File: f.Name(), Offset: -1, Err: kind, Detail: detail}
	}
	ext := strings.ToLower(filepath.Ext(f.Name()))
	auto := op.options.Format == SourceAuto
	if op.options.Format == SourceRaw || auto && (f.Device() || ext == ".raw" || ext == ".dd") {
		return kindRaw, nil
	}
	kind, why, err := detectFile(f)
	switch {
	case err != nil:
		return kindNone, err
	case kind == kindRefused:
		return fail(disk.ErrUnsupported, "it is "+why+"; if it is a raw disk, say --source-format raw")
	case kind != kindNone:
		return kind, nil
	case !auto:
		return fail(disk.ErrUnknown, "it is no VMDK: there is neither a magic number nor a descriptor")
	case ext == ".img" || op.options.Role == RoleConfigured:
		return kindRaw, nil
	}
	return fail(disk.ErrUnknown, "there is neither a magic number nor a descriptor of a VMDK; if it is a raw disk, say --source-format raw")
}
