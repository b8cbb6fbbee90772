// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vmstream/vmstream/disk"
)

// directoryOf opens files that a descriptor names, relative to the directory
// the descriptor lies in. A descriptor may come from anywhere, and what it
// names ends up in a backup or on the screen, so by default nothing outside
// the directory is opened.
type directoryOf struct {
	tree         disk.Tree
	path         string // of the directory
	referrer     string // the file that names others, for messages
	allowOutside bool
	// nothing forbids all names: the referrer was recognised by its bytes only,
	// and a guest may have written those.
	nothing bool
}

func (d *directoryOf) refuse(name, why string) error {
	return &disk.FormatError{
		File: d.referrer, Format: descriptorFormat, Field: "file name " + quoteName(name), Offset: -1,
		Err: disk.ErrOutside, Detail: why + "; --allow-outside permits it",
	}
}

// quoteName keeps control bytes of a name out of terminals.
func quoteName(name string) string {
	const most = 200
	var b strings.Builder
	b.WriteByte('"')
	for i, r := range name {
		if i >= most {
			b.WriteString("...")
			break
		}
		if r < ' ' || r == 0x7f {
			r = '?'
		}
		b.WriteRune(r)
	}
	b.WriteByte('"')
	return b.String()
}

// checkName refuses names that no file of a disk has, permission or not.
func (d *directoryOf) checkName(name string) error {
	bad := ""
	switch {
	case name == "":
		bad = "is empty"
	case len(name) > maxNameBytes:
		bad = "is too long"
	case !printable([]byte(name)):
		bad = "has control characters"
	}
	if bad == "" {
		return nil
	}
	return &disk.FormatError{
		File: d.referrer, Format: descriptorFormat, Field: "file name " + quoteName(name), Offset: -1,
		Err: disk.ErrCorrupt, Detail: bad,
	}
}

// leaves reports if a name could lead out of the directory as it is written.
// Backslashes and drive letters count as on Windows, where such names come from.
func leaves(name string) bool {
	slashes := strings.ReplaceAll(name, `\`, "/")
	if strings.HasPrefix(slashes, "/") || filepath.IsAbs(name) || len(name) > 1 && name[1] == ':' {
		return true
	}
	for part := range strings.SplitSeq(slashes, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

// open opens a file by the name that a descriptor has for it. The caller
// closes it.
func (d *directoryOf) open(name string) (disk.RawFile, error) {
	if err := d.checkName(name); err != nil {
		return nil, err
	}
	if d.nothing {
		return nil, &disk.FormatError{
			File: d.referrer, Format: descriptorFormat, Field: "file name " + quoteName(name), Offset: -1, Err: disk.ErrOutside,
			Detail: "the bytes of a file that is not called .vmdk may not name other files; say --source-format raw if it is a raw disk, or rename it",
		}
	}
	if d.allowOutside {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(d.path, path)
		}
		return d.tree.Open(path)
	}
	if leaves(name) {
		return nil, d.refuse(name, "leads out of the directory of the descriptor")
	}
	return d.openInside(name)
}

// openInside opens a file of the directory. No part of the name may be a
// symbolic link that leads out, not even if it is put there meanwhile.
func (d *directoryOf) openInside(name string) (disk.RawFile, error) {
	dir, err := d.tree.OpenDir(d.path)
	if err != nil {
		return nil, err
	}
	defer dir.Close() //nolint:errcheck // it was only read
	f, err := dir.Open(name)
	if err != nil {
		inside, links := d.followLinks(name)
		if !links {
			return nil, err
		}
		if inside == "" {
			return nil, d.refuse(name, "is a symbolic link out of the directory of the descriptor")
		}
		// A directory takes no absolute link, not even one that stays inside.
		if f, err = dir.Open(inside); err != nil {
			return nil, err
		}
	}
	if _, mapped := f.(disk.Mapping); f.Device() && !mapped {
		return nil, errors.Join(d.refuse(name, "is a device"), f.Close())
	}
	return f, nil
}

// followLinks returns where a name leads inside the directory once its
// symbolic links have been followed, "" if that is outside, and if there are
// links at all. What it returns is only ever opened below the directory.
func (d *directoryOf) followLinks(name string) (inside string, links bool) {
	dir, err := d.tree.RealPath(d.path)
	if err != nil {
		return "", false
	}
	target, err := d.tree.RealPath(filepath.Join(dir, name))
	if err != nil || target == filepath.Join(dir, name) {
		return "", false
	}
	rel, err := filepath.Rel(dir, target)
	if err != nil || !filepath.IsLocal(rel) {
		return "", true
	}
	return rel, true
}

// openParent opens the file that a parentFileNameHint means: the hint as it
// stands if that exists, otherwise the same base name beside the child, since
// disks get moved together. An existing parent elsewhere is never passed over
// in favour of a file here, because that may be another disk's.
func (d *directoryOf) openParent(hint string) (disk.RawFile, error) {
	if err := d.checkName(hint); err != nil {
		return nil, err
	}
	if d.nothing {
		return d.open(hint)
	}
	name := filepath.FromSlash(strings.ReplaceAll(hint, `\`, "/"))
	base := filepath.Base(name)
	if base == name {
		return d.open(name)
	}
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(d.path, path)
	}
	there, err := d.tree.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		return d.open(base)
	case err == nil && leaves(name):
		if here, err := d.tree.Stat(filepath.Join(d.path, base)); err == nil && d.tree.SameFile(here, there) {
			return d.open(base)
		}
	}
	return d.open(name)
}
