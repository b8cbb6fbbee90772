// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package pipeline joins the stages: it opens what an operator names, gives it
// to the stream, and puts what a stream holds where it belongs.
package pipeline

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vmdk"
)

// LoneDiskKey is the key of a disk that was named without a VM.
const LoneDiskKey = "disk"

// SourceOptions say what is opened, and how.
type SourceOptions struct {
	Format       vmdk.SourceFormat // of a disk named alone
	AllowOutside bool              // a VM may have disks anywhere, and disks their files
	PadShort     bool              // short flat files, and sizes that are no whole sectors, are filled up
	AllowInUse   bool              // also a VM that seems to be running
	NoLogs       bool
	Disks        []string // keys of the disks to take; all if empty
	Name         string   // in place of the VM's own
	Warn         func(string)
}

// Source is a VM, or a disk alone, opened for reading.
type Source struct {
	Name        string
	Consistency stream.Consistency
	Disks       []stream.Disk
	Files       []stream.File
	RawDisks    bool // the product of the configuration, ESX 2.x, takes raw disks
}

// Close closes the disks.
func (s *Source) Close() error {
	var errs []error
	for _, d := range s.Disks {
		errs = append(errs, d.Image.Close())
	}
	return errors.Join(errs...)
}

// OpenSource opens a VM, named by its configuration or by a directory with just
// one, or a disk.
func OpenSource(path string, o SourceOptions) (*Source, error) {
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		if path, err = configurationIn(path); err != nil {
			return nil, err
		}
	}
	s := &Source{Name: o.Name}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".vmx", ".cfg":
		err = s.openVM(path, &o)
	default:
		err = s.openDisk(path, &o)
	}
	if err == nil && !stream.ValidName(s.Name) {
		err = fmt.Errorf("%q is no name for a directory; choose one with --name", s.Name)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// OpenDisk opens a disk alone, whatever it is called.
func OpenDisk(path string, o SourceOptions) (*Source, error) {
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	s := &Source{Name: o.Name}
	if err := s.openDisk(path, &o); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func configurationIn(dir string) (string, error) {
	var found []string
	for _, pattern := range []string{"*.vmx", "*.VMX"} {
		m, err := filepath.Glob(filepath.Join(escapeGlob(dir), pattern))
		if err != nil {
			return "", err
		}
		found = append(found, m...)
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("%s: there is no .vmx in this directory: %w", dir, fs.ErrNotExist)
	}
	return "", fmt.Errorf("%s: there are %d .vmx files in this directory; name one of them", dir, len(found))
}

var escapeGlob = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace

// openDisk opens a disk as a VM with one disk and nothing else.
func (s *Source) openDisk(path string, o *SourceOptions) error {
	base := filepath.Base(path)
	stem := strings.TrimSuffix(base, filepath.Ext(base))
	if s.Name == "" {
		s.Name = vm.SafeName(stem)
	}
	if len(o.Disks) > 0 && !slices.Equal(o.Disks, []string{LoneDiskKey}) {
		return fmt.Errorf("a disk alone has the key %q: %w", LoneDiskKey, errNoDisk)
	}
	s.Consistency = stream.Crash
	return s.add(diskSource{key: LoneDiskKey, path: path, name: base, file: vm.SafeName(stem) + ".vmdk", format: o.Format}, o)
}

var errNoDisk = fmt.Errorf("no such disk: %w", fs.ErrNotExist)

func (s *Source) openVM(path string, o *SourceOptions) error {
	load := vm.LoadOptions{NoLogs: o.NoLogs}
	if !o.AllowOutside {
		// Who can write a configuration must not get every file that we can
		// read. Disks on other datastores are where ESX has them.
		load.Roots = []string{"/vmfs/volumes"}
	}
	m, err := vm.Load(path, load)
	if err != nil {
		return err
	}
	for _, w := range m.Warnings {
		o.Warn(w)
	}
	if s.Name == "" {
		s.Name = m.Name
	}
	s.RawDisks = len(m.Disks) > 0 && m.Disks[0].Raw
	s.Consistency = stream.PoweredOff
	if len(m.InUse) > 0 {
		if !o.AllowInUse {
			return fmt.Errorf("%s: the VM seems to be running (%s): %w; power it off or use a snapshot, or say --allow-in-use if these are leftovers", path, strings.Join(m.InUse, ", "), disk.ErrInUse)
		}
		s.Consistency = stream.Crash
	}
	for _, key := range o.Disks {
		if !slices.ContainsFunc(m.Disks, func(d vm.Disk) bool { return d.Key == key }) {
			return fmt.Errorf("%s: disk %s: %w", path, key, errNoDisk)
		}
	}
	files := fileNames{}
	for i := range m.Files {
		s.Files = append(s.Files, fileOf(&m.Files[i]))
		files.take(m.Files[i].Name)
	}
	for i := range m.Disks {
		d := &m.Disks[i]
		if len(o.Disks) > 0 && !slices.Contains(o.Disks, d.Key) {
			continue
		}
		src := diskSource{
			key: d.Key, path: d.Path, name: d.File.Written, adapter: d.Adapter, mode: d.ModeWritten,
			file: files.disk(d.File.Base, d.Key), role: vmdk.RoleConfigured,
		}
		switch {
		case d.RedoLogs > 0:
			src.path, src.redo = d.TopPath, true
		case d.Raw:
			src.format = vmdk.SourceRaw
		}
		if err := s.add(src, o); err != nil {
			return fmt.Errorf("disk %s: %w", d.Key, err)
		}
	}
	return nil
}

// fileNames hands out names for the members of a stream, each once.
type fileNames map[string]bool

func (n fileNames) take(name string) bool {
	if n[name] {
		return false
	}
	n[name] = true
	return true
}

// disk returns the name of a disk's descriptor: what the configuration uses,
// with the key where two would collide.
func (n fileNames) disk(base, key string) string {
	stem := base
	if ext := strings.ToLower(filepath.Ext(base)); ext == ".vmdk" || ext == ".dsk" {
		stem = base[:len(base)-len(ext)]
	}
	stem = vm.SafeName(stem)
	if name := stem + ".vmdk"; !n.clashes(stem) && n.take(name) {
		return name
	}
	stem += "-" + strings.ReplaceAll(key, ":", "-")
	n.take(stem + ".vmdk")
	return stem + ".vmdk"
}

// clashes reports if an extent of one of two disks could have the name of the
// other's descriptor.
func (n fileNames) clashes(stem string) bool {
	for other := range n {
		other, ok := strings.CutSuffix(other, ".vmdk")
		if ok && (extentOf(stem, other) || extentOf(other, stem)) {
			return true
		}
	}
	return false
}

func extentOf(name, stem string) bool {
	digits, ok := strings.CutPrefix(name, stem+"-s")
	return ok && digits != "" && strings.Trim(digits, "0123456789") == ""
}

// diskSource is a disk to open.
type diskSource struct {
	key, path     string
	name          string // as the configuration or the operator has it
	file          string // descriptor in the stream
	adapter, mode string // of the configuration
	format        vmdk.SourceFormat
	role          vmdk.Role
	redo          bool // the top of a chain of ESX 2.x
}

func (s *Source) add(src diskSource, o *SourceOptions) error {
	opt := vmdk.Options{Format: src.format, Role: src.role, AllowOutside: o.AllowOutside, PadShort: o.PadShort, Warn: o.Warn}
	open := vmdk.Open
	if src.redo {
		open = vmdk.OpenRedo
	}
	im, err := open(src.path, opt)
	if err != nil {
		return err
	}
	if im.Size()%disk.SectorSize != 0 && !o.PadShort || im.Size() == 0 {
		return errors.Join(&disk.FormatError{
			File: src.path, Offset: -1, Err: disk.ErrUnsupported,
			Detail: fmt.Sprintf("its size of %d bytes is not a whole number of sectors; --pad-short fills up the last one", im.Size()),
		}, im.Close())
	}
	s.Disks = append(s.Disks, stream.Disk{Record: record(&src, im.Info()), Image: im})
	return nil
}

// maxEntries is how many further entries of a disk data base are kept: no
// product writes more than a few.
const maxEntries = 32

// record describes a disk for the opening record.
func record(src *diskSource, info vmdk.Info) stream.DiskRecord {
	r := stream.DiskRecord{
		Key: src.key, File: src.file, Mode: src.mode,
		Adapter: info.Adapter, Geometry: info.Geometry, HWVersion: info.HWVersion, UUID: info.UUID,
		Source: stream.SourceRecord{Kind: info.Kind, Path: absolute(src.path), Name: src.name},
	}
	if r.Adapter == "" {
		r.Adapter = src.adapter
	}
	r.Adapter = descriptorAdapter(r.Adapter)
	if !plain(r.UUID) {
		r.UUID = ""
	}
	if r.HWVersion == "" || !plain(r.HWVersion) {
		r.HWVersion = "4" // what every product still in use accepts
	}
	if r.Geometry == (vmdk.Geometry{}) {
		r.Geometry = vmdk.GeometryFor(r.Adapter, info.SizeBytes/disk.SectorSize)
	}
	if info.CID != 0 {
		r.Source.CID = stream.CIDString(info.CID)
	}
	for _, e := range info.DDB {
		if keepEntry(e.Key) && plain(e.Key+e.Value) && len(r.DDB) < maxEntries {
			r.DDB = append(r.DDB, e)
		}
	}
	return r
}

// descriptorAdapter returns the adapter type that a descriptor uses for an
// adapter: products write one of four words there, whatever the controller.
func descriptorAdapter(adapter string) string {
	switch adapter {
	case "ide", "buslogic", "lsilogic", "legacyESX":
		return adapter
	case "sata":
		return "ide"
	}
	return vmdk.DefaultAdapter
}

// plain reports if s is fit for a line of a descriptor.
func plain(s string) bool {
	return utf8.ValidString(s) && len(s) < 1024 && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == '"' || r == 0x7f })
}

// keepEntry reports if an entry of the disk data base describes the disk, and
// not how or where its source keeps it.
func keepEntry(key string) bool {
	key = strings.ToLower(key)
	for _, p := range []string{
		"ddb.adaptertype", "ddb.geometry.cylinders", "ddb.geometry.heads", "ddb.geometry.sectors",
		"ddb.uuid", "ddb.longcontentid", "ddb.virtualhwversion", "ddb.nativedeltabytes", "ddb.iofilters",
		"ddb.sidecars", "ddb.objectparenturi", "ddb.encoding",
	} {
		if key == p || strings.HasPrefix(key, "ddb.uuid.") {
			return false
		}
	}
	return true
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return strings.ToValidUTF8(abs, "_")
	}
	return path
}

// fileOf makes a file of a VM readable for the stream.
func fileOf(f *vm.File) stream.File {
	out := stream.File{Record: stream.FileRecord{Name: f.Name, Kind: string(f.Kind)}, Mode: 0o600}
	if st, err := os.Stat(f.Path); err == nil {
		out.Record.SizeBytes, out.Mode, out.ModTime = st.Size(), int64(st.Mode().Perm()), st.ModTime()
	}
	path := f.Path
	out.Open = func() (io.ReadCloser, int64, error) {
		r, err := disk.OpenRegular(path)
		if err != nil {
			return nil, 0, err
		}
		st, err := r.Stat()
		if err != nil {
			return nil, 0, errors.Join(err, r.Close())
		}
		return r, st.Size(), nil
	}
	return out
}
