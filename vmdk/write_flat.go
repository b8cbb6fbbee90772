// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vmstream/vmstream/disk"
)

// flatWriter writes a flat extent, with a descriptor beside it unless the
// format is raw.
type flatWriter struct {
	*disk.RawTarget
	files newFiles
	desc  *descriptorFile // nil for raw
	names []string
	done  bool
}

func createFlat(spec *CreateSpec) (Writer, error) {
	if spec.Format == FormatRaw {
		t, err := disk.CreateRaw(filepath.Join(spec.Dir, spec.Name), spec.SizeBytes)
		if err != nil {
			return nil, err
		}
		return &flatWriter{RawTarget: t, names: []string{spec.Name}}, nil
	}
	flat, text, err := spec.flat()
	if err != nil {
		return nil, err
	}
	w := &flatWriter{files: newFiles{dir: spec.Dir}, names: []string{flat, spec.Name}}
	if w.desc, err = w.files.reserve(spec.Name, text); err != nil {
		return nil, err
	}
	if w.RawTarget, err = disk.CreateRaw(filepath.Join(spec.Dir, flat), spec.sectors()*disk.SectorSize); err != nil {
		return nil, errors.Join(err, w.desc.close(), w.files.discard())
	}
	w.files.created = append(w.files.created, flat)
	return w, nil
}

// flat returns the name of the extent of a flat disk, and its descriptor.
func (s *CreateSpec) flat() (name string, text []byte, err error) {
	// ESX and hosted products differ in the words, not in the file.
	createType, extentType := TypeMonolithicFlat, ExtentFlat
	if s.Format == FormatVMFS {
		createType, extentType = TypeVMFS, ExtentVMFS
	}
	name = s.base() + "-flat.vmdk"
	d, err := s.descriptor(createType, []Extent{{
		Access: AccessRW, Sectors: s.sectors(), Type: extentType, Name: name,
		HasOffset: extentType == ExtentFlat,
	}})
	if err != nil {
		return "", nil, err
	}
	text, err = d.Marshal()
	return name, text, err
}

// FlatDescriptor returns the descriptor of a new disk of format flat or vmfs, and the name of
// its extent, for a file system that the files of Create cannot be on.
func FlatDescriptor(spec CreateSpec) (extent string, text []byte, err error) {
	if err := spec.check(); err != nil || spec.Format == FormatRaw || !spec.Format.Adopts() {
		return "", nil, errors.Join(fmt.Errorf("vmdk: descriptor of %s, format %s: %w", spec.Name, spec.Format, disk.ErrUnsupported), err)
	}
	return spec.flat()
}

// MappingDescriptor returns the descriptor of a raw device mapping of a LUN of
// spec.SizeBytes, and the name of the mapping file that it names. Products tell the two
// modes by both.
func MappingDescriptor(spec CreateSpec, physical bool) (mapping string, text []byte, err error) {
	spec.Format = FormatVMFS
	if err := spec.check(); err != nil {
		return "", nil, fmt.Errorf("vmdk: descriptor of %s: %w", spec.Name, err)
	}
	createType, suffix := TypeRDM, "-rdm.vmdk"
	if physical {
		createType, suffix = TypeRDMPhysical, "-rdmp.vmdk"
	}
	mapping = spec.base() + suffix
	d, err := spec.descriptor(createType, []Extent{{Access: AccessRW, Sectors: spec.sectors(), Type: ExtentVMFSRDM, Name: mapping}})
	if err != nil {
		return "", nil, err
	}
	text, err = d.Marshal()
	return mapping, text, err
}

// Adopts reports if the data of a disk of this format is a raw file, so that
// Adopt can make one.
func (f Format) Adopts() bool { return f == FormatRaw || f == FormatFlat || f == FormatVMFS }

// Adopt makes a disk as spec says of the raw disk in the file path, which is on
// the same file system as spec.Dir: the file gets its name there. It returns the
// names in spec.Dir as Writer.Files does.
func Adopt(spec CreateSpec, path string) ([]string, error) {
	if err := spec.check(); err != nil || !spec.Format.Adopts() {
		return nil, errors.Join(fmt.Errorf("vmdk: %s of format %s from a raw disk: %w", spec.Name, spec.Format, disk.ErrUnsupported), err)
	}
	files := newFiles{dir: spec.Dir}
	if spec.Format == FormatRaw {
		if err := errors.Join(files.free(spec.Name), os.Truncate(path, spec.SizeBytes)); err != nil {
			return nil, err
		}
		return []string{spec.Name}, errors.Join(os.Rename(path, filepath.Join(spec.Dir, spec.Name)), files.complete())
	}
	flat, text, err := spec.flat()
	if err == nil {
		err = errors.Join(files.free(flat), os.Truncate(path, spec.sectors()*disk.SectorSize))
	}
	if err != nil {
		return nil, err
	}
	d, err := files.reserve(spec.Name, text)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(d.complete(), os.Rename(path, filepath.Join(spec.Dir, flat)), files.complete()); err != nil {
		return nil, errors.Join(err, files.discard())
	}
	return []string{flat, spec.Name}, nil
}

func (w *flatWriter) Files() []string { return w.names }

func (w *flatWriter) Close() error {
	if w.done {
		return fmt.Errorf("%s: %w", w.names[0], fs.ErrClosed)
	}
	w.done = true
	if w.desc == nil {
		return w.RawTarget.Close()
	}
	if err := w.RawTarget.Close(); err != nil { // has removed the extent
		w.files.created = w.files.created[:1]
		return errors.Join(err, w.desc.close(), w.files.discard())
	}
	err := w.desc.complete()
	if err == nil {
		err = w.files.complete()
	}
	if err != nil {
		return errors.Join(err, w.files.discard())
	}
	return nil
}

func (w *flatWriter) Abort() {
	if w.done {
		return
	}
	w.done = true
	w.RawTarget.Abort()
	if w.desc != nil {
		_ = w.desc.close() // nothing in it
		w.files.created = w.files.created[:1]
		_ = w.files.discard() // nobody to tell
	}
}
