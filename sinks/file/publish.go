// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"
)

// link is os.Root.Link; tests have it fail.
var link = (*os.Root).Link

// publish gives a temporary file its name, unless there is one of that name. It is a
// second link, or where a file system has none, as those of USB disks, a rename that
// replaces nothing.
func publish(root *os.Root, part, name string) error {
	err := link(root, part, name)
	switch {
	case err == nil:
		// The object is there. A second name that stays is an orphan, no failure.
		_ = root.Remove(part)
		return nil
	case !withoutLinks(err):
		return err
	}
	if renameErr := renameNew(root, part, name); !errors.Is(renameErr, errors.ErrUnsupported) && !errors.Is(renameErr, syscall.EINVAL) {
		return renameErr
	}
	return fmt.Errorf("file sink: this file system has no hard links, so a file that is there meanwhile could be replaced: %w; --overwrite does without", err)
}

func withoutLinks(err error) bool {
	for _, e := range []error{syscall.EPERM, syscall.ENOTSUP, syscall.EOPNOTSUPP, syscall.ENOSYS, syscall.EMLINK, errors.ErrUnsupported} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// makeDirs makes the directories of a key that are missing, for good.
func makeDirs(root *os.Root, dir string) error {
	if dir == "." {
		return nil
	}
	if _, err := root.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeDirs(root, path.Dir(dir)); err != nil {
		return err
	}
	if err := root.Mkdir(dir, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(root, path.Dir(dir))
}

func syncDir(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
