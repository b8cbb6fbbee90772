// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package file

import (
	"errors"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// renameNew renames a file in its directory, unless there is one of the new name.
func renameNew(root *os.Root, from, to string) error {
	d, err := root.Open(path.Dir(from))
	if err != nil {
		return err
	}
	fd := int(d.Fd())
	err = unix.Renameat2(fd, path.Base(from), fd, path.Base(to), unix.RENAME_NOREPLACE)
	if err != nil {
		err = &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return errors.Join(err, d.Close())
}
