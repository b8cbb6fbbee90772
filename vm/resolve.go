// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// resolver finds the files that a configuration names on this host.
type resolver struct {
	tree    disk.Tree
	dir     string // of the configuration
	volumes map[string]string
	roots   []string
	copy    bool // everything is in dir
}

// candidates returns the paths at which the file may be, best first.
func (r resolver) candidates(n FileName) []string {
	var list []string
	add := func(p string) {
		if p != "" && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	if r.copy {
		return []string{filepath.Join(r.dir, n.Base)}
	}
	names := []string{n.Written}
	if n.raw != n.Written {
		names = append(names, n.raw)
	}
	for _, written := range names {
		n := splitFileName(written)
		if n.Form == NameRelative || n.Form == NameVolume {
			add(filepath.Join(r.dir, written))
			if n.Form == NameRelative {
				add(filepath.Join(r.dir, filepath.FromSlash(n.Dir), n.Base))
				continue
			}
		} else if filepath.IsAbs(written) {
			add(filepath.Clean(written))
		}
		add(r.onVolume(r.volumes[n.Volume], n))
		if n.Form == NameVolume && filepath.IsLocal(n.Volume) {
			add(r.onVolume(filepath.Join("/vmfs", n.Volume), n))
			add(r.onVolume(filepath.Join("/vmfs/volumes", n.Volume), n))
		}
		add(filepath.Join(r.dir, n.Base)) // a copied directory
	}
	return list
}

// onVolume returns the path of a file on a volume that is at root, "" if root
// is empty or the name would lead out of it.
func (r resolver) onVolume(root string, n FileName) string {
	name := filepath.Join(filepath.FromSlash(n.Dir), n.Base)
	if root == "" || !filepath.IsLocal(name) {
		return ""
	}
	return filepath.Join(root, name)
}

// find returns the path of an existing disk file.
func (r resolver) find(key string, n FileName) (string, error) {
	paths := r.candidates(n)
	for _, p := range paths {
		st, err := r.tree.Stat(p)
		switch {
		case notThere(err):
			continue
		case err != nil:
			return "", fmt.Errorf("%s: %w", key, err)
		case !isDiskFile(st.Mode()):
			return "", configError(key, -1, disk.ErrUnsupported, "%s is neither a regular file nor a block device", p)
		}
		return p, r.confine(key, p)
	}
	return "", configError(key, -1, fs.ErrNotExist, "the disk %q is not at %s", n.Written, strings.Join(paths, ", nor at "))
}

func isDiskFile(m fs.FileMode) bool {
	return m.IsRegular() || m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0
}

// confine refuses a file outside the directory of the configuration and the
// roots, after symbolic links, if there are roots at all.
func (r resolver) confine(key, p string) error {
	if len(r.roots) == 0 {
		return nil
	}
	real, err := r.tree.RealPath(p)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	for _, root := range append([]string{r.dir}, r.roots...) {
		realRoot, err := realPath(r.tree, root)
		if err != nil {
			continue // a root that does not exist allows nothing
		}
		if rel, err := filepath.Rel(realRoot, real); err == nil && filepath.IsLocal(rel) {
			return nil
		}
	}
	return configError(key, -1, disk.ErrOutside, "%s lies outside the directory of the machine and the directories that are allowed", real)
}

// realPath returns the absolute path without symbolic links.
func realPath(tree disk.Tree, p string) (string, error) {
	abs, err := filepath.Abs(p)
	if err != nil {
		return "", err
	}
	return tree.RealPath(abs)
}
