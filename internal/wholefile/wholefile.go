// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package wholefile writes small files whole or not at all.
package wholefile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Write gives the file at path this content and mode. Another one there is
// replaced at the moment when the new one is complete and durable; after an
// error there is what there was before.
func Write(path string, content []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".vmstream-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // not finished
	}
	return err
}
