// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"errors"
	"fmt"
	"io/fs"
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
	// ESX and hosted products differ in the words, not in the file.
	createType, extentType := TypeMonolithicFlat, ExtentFlat
	if spec.Format == FormatVMFS {
		createType, extentType = TypeVMFS, ExtentVMFS
	}
	flat := spec.base() + "-flat.vmdk"
	d, err := spec.descriptor(createType, []Extent{{
		Access: AccessRW, Sectors: spec.sectors(), Type: extentType, Name: flat,
		HasOffset: extentType == ExtentFlat,
	}})
	if err != nil {
		return nil, err
	}
	text, err := d.Marshal()
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
