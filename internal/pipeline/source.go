// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package pipeline joins the stages: it opens what an operator names, gives it
// to the stream, and puts what a stream holds where it belongs.
package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vm/snapshot"
	"github.com/vmstream/vmstream/vmdk"
)

// SourceOptions say what is opened, and how.
type SourceOptions struct {
	Format       vmdk.SourceFormat // of a disk named alone
	AllowOutside bool              // a VM may have disks anywhere, and disks their files
	PadShort     bool              // short flat files, and sizes that are no whole sectors, are filled up
	AllowInUse   bool              // also what seems to be in use
	NoLogs       bool
	SkipFree     bool        // leave out what file systems on the disks do not use
	ReadUnmapped bool        // read also what thin LUNs say that holds nothing
	Copy         vm.CopyKind // the directory of a VM is a copy that may lack disks
	Disks        []string    // keys of the disks to take; all if empty
	Name         string      // in place of the VM's own
	Warn         func(string)
	Tree         disk.Tree // where the source lies; nil stands for the operating system's files
	Under        []string  // files and devices that Tree lies in, and that are read with it

	Snapshot SnapshotOptions
}

// SnapshotOptions say how the disks are made to stand still. The zero value
// takes files as they are.
type SnapshotOptions struct {
	Provider snapshot.Provider
	Journal  *snapshot.Journal // nil for a provider that leaves nothing behind

	BackupID, ParentID string

	// Named is told the name of the VM before the snapshot is made. It may be nil.
	Named func(name string)

	// These are as in [snapshot.Request].
	Before, After func(context.Context) error
	Opened        func(key string, files []string) error
	Detail        func(string)
}

// Source is a VM, or a disk alone, opened for reading. It has to be released
// or closed.
type Source struct {
	Name        string
	Consistency stream.Consistency
	Disks       []stream.Disk
	Files       []stream.File
	RawDisks    bool // the product of the configuration, ESX 2.x, takes raw disks

	// Snapshot has the disks as their provider sees them, in the order of Disks.
	Snapshot *snapshot.Snapshot
}

// How long undoing a snapshot may take: what was written meanwhile is merged.
// Who has stopped a run has less patience.
const (
	releaseTime = 4 * time.Hour
	stopTime    = 30 * time.Minute
)

// Release closes the disks and undoes the snapshot, also if ctx is over. done
// says that the backup is complete. Further calls do nothing.
func (s *Source) Release(ctx context.Context, done bool) error {
	if s.Snapshot == nil {
		return nil
	}
	limit := releaseTime
	if !done {
		limit = stopTime
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	return s.Snapshot.Release(ctx, done)
}

// EndReading closes the disks and lets the machine go as far as that does not depend
// on what becomes of the stream. It is for a stream that is written and not yet
// stored. Release is still to be called, and tries again what has failed.
func (s *Source) EndReading(ctx context.Context) error {
	if s.Snapshot == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTime)
	defer cancel()
	return s.Snapshot.EndReading(ctx)
}

// Close is Release for what is not a backup, or none that was completed.
func (s *Source) Close() error { return s.Release(context.Background(), false) }

// OpenSource opens a VM, named by its configuration or by a directory with just
// one, or a disk. path may be empty if the provider knows the machine.
func OpenSource(ctx context.Context, path string, o SourceOptions) (*Source, error) {
	o.fill()
	if path == "" {
		return openGuest(ctx, &o)
	}
	st, err := o.Tree.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		if path, err = configurationIn(o.Tree, path); err != nil {
			return nil, err
		}
	}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".vmx", ".cfg":
		return openVM(ctx, path, &o)
	default:
		return openDisk(ctx, path, &o)
	}
}

// OpenDisk opens a disk alone, whatever it is called and whoever uses it.
func OpenDisk(ctx context.Context, path string, o SourceOptions) (*Source, error) {
	o.fill()
	o.AllowInUse = true
	return openDisk(ctx, path, &o)
}

func (o *SourceOptions) fill() {
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	if o.Tree == nil && !o.ReadUnmapped { // volumes are no devices
		o.Tree = WithUnmapped(disk.OS(), o.Warn)
	}
	o.Tree = disk.TreeOr(o.Tree)
	if o.Snapshot.Provider == nil {
		o.Snapshot.Provider = snapshot.None{}
	}
}

func configurationIn(tree disk.Tree, dir string) (string, error) {
	entries, err := disk.ReadDir(tree, dir)
	if err != nil {
		return "", err
	}
	var found []string
	for _, e := range entries {
		if strings.EqualFold(filepath.Ext(e.Name()), ".vmx") {
			found = append(found, filepath.Join(dir, e.Name()))
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("%s: there is no .vmx in this directory: %w", dir, fs.ErrNotExist)
	}
	return "", fmt.Errorf("%s: there are %d .vmx files in this directory; name one of them", dir, len(found))
}

// request returns what is asked of the provider.
func (o *SourceOptions) request(path string, m *vm.VM) *snapshot.Request {
	n := &o.Snapshot
	opened := n.Opened
	if opened != nil && len(o.Under) > 0 {
		opened = func(key string, files []string) error { return n.Opened(key, slices.Concat(files, o.Under)) }
	}
	return &snapshot.Request{
		BackupID: n.BackupID, ParentID: n.ParentID, Path: path, VM: m, Disks: o.Disks,
		Open:       vmdk.Options{Tree: o.Tree, AllowOutside: o.AllowOutside, PadShort: o.PadShort, Warn: o.Warn},
		AllowInUse: o.AllowInUse, Before: n.Before, After: n.After, Opened: opened, Warn: o.Warn, Detail: n.Detail,
	}
}

// take makes the snapshot and the records of its disks, whose descriptors get
// the names that file tells.
func (s *Source) take(ctx context.Context, o *SourceOptions, r *snapshot.Request, file func(*snapshot.Disk) string) (err error) {
	if o.Snapshot.Named != nil {
		o.Snapshot.Named(s.Name)
	}
	if s.Snapshot, err = snapshot.Take(ctx, o.Snapshot.Provider, o.Snapshot.Journal, r); err != nil {
		return err
	}
	s.Consistency = stream.Consistency(s.Snapshot.Consistency)
	for i := range s.Snapshot.Disks {
		d := &s.Snapshot.Disks[i]
		r := record(d, file(d))
		if r.Mapping = mappingOf(o.Tree, d); r.Mapping != nil && r.Mapping.Mode == mappedPhysical {
			o.Warn(fmt.Sprintf("disk %s is a raw device mapping in physical mode: no snapshot protects it, and it is read as the LUN is now", r.Key))
		}
		s.Disks = append(s.Disks, stream.Disk{Record: r, Image: d.Image})
	}
	if o.SkipFree {
		if err := s.skipFree(ctx, o); err != nil {
			return errors.Join(err, s.Close())
		}
	}
	return nil
}

func checkName(name string) error {
	if !stream.ValidName(name) {
		return fmt.Errorf("%q is no name for a directory; choose one with --name", name)
	}
	return nil
}

// openGuest opens the disks of a machine that only the provider knows.
func openGuest(ctx context.Context, o *SourceOptions) (*Source, error) {
	s := &Source{Name: o.Name}
	names := fileNames{}
	err := s.take(ctx, o, o.request("", nil), func(d *snapshot.Disk) string {
		return names.disk(strings.TrimSuffix(d.Base, filepath.Ext(d.Base)), d.Key)
	})
	if err != nil {
		return nil, err
	}
	if s.Name == "" {
		s.Name = vm.SafeName(s.Snapshot.Machine)
		if s.Snapshot.Machine == "" {
			err = errors.New("the machine has no name; choose one with --name")
		}
	}
	if err == nil {
		err = checkName(s.Name)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// openDisk opens a disk as a VM with one disk and nothing else.
func openDisk(ctx context.Context, path string, o *SourceOptions) (*Source, error) {
	base := filepath.Base(path)
	stem := strings.TrimSuffix(base, filepath.Ext(base))
	s := &Source{Name: o.Name}
	if s.Name == "" {
		s.Name = vm.SafeName(stem)
	}
	if err := checkName(s.Name); err != nil {
		return nil, err
	}
	r := o.request(path, nil)
	r.Open.Format = o.Format
	return s, s.take(ctx, o, r, func(*snapshot.Disk) string { return vm.SafeName(stem) + ".vmdk" })
}

func openVM(ctx context.Context, path string, o *SourceOptions) (*Source, error) {
	load := vm.LoadOptions{Tree: o.Tree, NoLogs: o.NoLogs, Copy: o.Copy}
	if !o.AllowOutside {
		load.Roots = vm.DefaultRoots()
	}
	m, err := vm.Load(path, load)
	if err != nil {
		return nil, err
	}
	for _, w := range m.Warnings {
		o.Warn(w)
	}
	s := &Source{Name: o.Name, RawDisks: m.RawDisks}
	if s.Name == "" {
		s.Name = m.Name
	}
	if err := checkName(s.Name); err != nil {
		return nil, err
	}
	names := fileNames{}
	for i := range m.Files {
		f, err := fileOf(o.Tree, &m.Files[i])
		if err != nil {
			return nil, err
		}
		s.Files = append(s.Files, f)
		names.take(m.Files[i].Name)
	}
	return s, s.take(ctx, o, o.request(path, m), func(d *snapshot.Disk) string { return names.disk(d.Base, d.Key) })
}

// fileOf makes a file of a VM readable for the stream. What tells the names of
// disks is read at once: a snapshot may change it.
func fileOf(tree disk.Tree, f *vm.File) (stream.File, error) {
	out := stream.File{Record: stream.FileRecord{Name: f.Name, Kind: string(f.Kind)}, Mode: 0o600}
	size := int64(0)
	if st, err := tree.Stat(f.Path); err == nil {
		size = st.Size()
		out.Record.SizeBytes, out.Mode, out.ModTime = size, int64(st.Mode().Perm()), st.ModTime()
	}
	path := f.Path
	open := func() (io.ReadCloser, int64, error) {
		r, err := openRegular(tree, path)
		if err != nil {
			return nil, 0, err
		}
		return &fileReader{RawFile: r}, r.Size(), nil
	}
	out.Open = open
	list := f.Kind == vm.FileSnapshots && strings.EqualFold(filepath.Ext(f.Name), ".vmsd")
	if f.Kind != vm.FileConfig && !list || size > vm.MaxConfigBytes {
		return out, nil
	}
	r, n, err := open()
	if err != nil {
		return out, nil // tried again, and told, when its turn comes
	}
	b, err := io.ReadAll(io.LimitReader(r, min(n, vm.MaxConfigBytes)))
	if err = errors.Join(err, r.Close()); err != nil {
		return out, err
	}
	out.Record.SizeBytes = int64(len(b))
	out.Open = func() (io.ReadCloser, int64, error) {
		return io.NopCloser(bytes.NewReader(b)), int64(len(b)), nil
	}
	return out, nil
}

// fileReader reads a file from its beginning. It does not end where the file ended when it
// was opened if that has grown since.
type fileReader struct {
	disk.RawFile
	off int64
}

func (f *fileReader) Read(p []byte) (int, error) {
	if f.off < f.Size() {
		n, err := f.ReadAt(p[:min(int64(len(p)), f.Size()-f.off)], f.off)
		switch f.off += int64(n); {
		case n > 0:
			err = nil
		case errors.Is(err, disk.ErrTruncated): // it has become shorter
			err = io.EOF
		}
		return n, err
	}
	st, err := f.Stat()
	switch {
	case err != nil:
		return 0, err
	case st.Size() <= f.Size() || len(p) == 0:
		return 0, io.EOF
	}
	p[0] = 0 // whatever it is: it was not there
	return 1, nil
}

// openRegular opens a regular file of a tree.
func openRegular(tree disk.Tree, path string) (disk.RawFile, error) {
	f, err := tree.Open(path)
	if err != nil {
		return nil, err
	}
	if f.Device() {
		return nil, errors.Join(fmt.Errorf("%s: not a regular file: %w", path, disk.ErrUnsupported), f.Close())
	}
	return f, nil
}
