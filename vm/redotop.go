// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/vmstream/vmstream/disk"
)

const (
	redoSuffix    = ".REDO"
	maxRedoLevels = 64
)

// RedoTop returns the top of the redo log chain that ESX 2.x and GSX keep above
// the disk at path: the last of path, path.REDO, path.REDO.REDO and so on, and
// how many redo logs that are. A level that is missing below one that exists,
// and a redo log that is no regular file, are errors; path itself is not looked
// at, and neither is any content.
func RedoTop(path string) (top string, levels int, err error) { return redoTop(disk.OS(), path) }

func redoTop(tree disk.Tree, path string) (top string, levels int, err error) {
	top = path
	name := path
	for level := 1; level <= maxRedoLevels; level++ {
		name += redoSuffix
		st, err := tree.Lstat(name)
		switch {
		case notThere(err):
			continue // one further up may exist: that is a gap
		case err != nil:
			return "", 0, err
		case !st.Mode().IsRegular():
			return "", 0, redoError(name, disk.ErrUnsupported, "a redo log must be a regular file")
		case level != levels+1:
			return "", 0, redoError(name, disk.ErrCorrupt, fmt.Sprintf("the redo log of level %d below it is missing", levels+1))
		}
		top, levels = name, level
	}
	if levels == maxRedoLevels {
		return "", 0, redoError(top, disk.ErrUnsupported, fmt.Sprintf("more than %d redo logs", maxRedoLevels-1))
	}
	return top, levels, nil
}

func redoError(name string, kind error, detail string) error {
	return &disk.FormatError{File: name, Format: "redo log chain", Offset: -1, Err: kind, Detail: detail}
}

// notThere reports if a file does not exist, or cannot because of its name.
func notThere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENAMETOOLONG)
}
