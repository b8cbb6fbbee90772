// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/vmstream/vmstream/internal/writeback"
)

// streamFile is a stream in a file.
type streamFile struct {
	*streamWriter
	f     *writeback.File
	files newFiles
	done  bool
}

func createStream(spec *CreateSpec) (Writer, error) {
	w := &streamFile{files: newFiles{dir: spec.Dir}}
	f, err := w.files.create(spec.Name)
	if err != nil {
		return nil, err
	}
	w.f = writeback.New(f)
	if w.streamWriter, err = newStreamWriter(w.f, spec); err != nil {
		return nil, errors.Join(err, f.Close(), w.files.discard())
	}
	w.name = filepath.Join(spec.Dir, spec.Name)
	return w, nil
}

func (w *streamFile) Files() []string { return []string{filepath.Base(w.f.Name())} }

func (w *streamFile) Close() error {
	if w.done {
		return fs.ErrClosed
	}
	w.done = true
	err := w.streamWriter.Close()
	if err == nil {
		err = w.f.Sync()
	}
	err = errors.Join(err, w.f.Close())
	if err == nil {
		err = w.files.complete()
	}
	if err != nil {
		return errors.Join(err, w.files.discard())
	}
	return nil
}

func (w *streamFile) Abort() {
	if w.done {
		return
	}
	w.done = true
	w.streamWriter.Abort()
	_ = w.f.Close()       // its content does not matter any more
	_ = w.files.discard() // nobody to tell
}
