// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// Options say how a disk is found and how its files are changed. The zero value
// is a good choice.
type Options struct {
	// Format and Role say what a file without a descriptor is, as for [vmdk.Open].
	Format vmdk.SourceFormat
	Role   vmdk.Role

	AllowOutside bool         // descriptors may name files outside their directory
	AllowInUse   bool         // the caller knows that nobody uses the disk
	Warn         func(string) // takes lines about what is odd; nil discards
	FS           FS           // nil for the operating system's

	// Tree is where List finds the disk; nil stands for the operating system's. What
	// changes disks takes those of the latter only.
	Tree disk.Tree

	// Config is the configuration that names the disk's top, "" if there is
	// none: others in the directory must not name what goes away.
	Config string

	// Switch makes the configuration name the file to as the top of the disk in
	// place of from. It has to be durable on return, and may be called again
	// with the same names. nil if there is no configuration. In the naming of
	// ESX 2.x a configuration names the base, and only its note of the current
	// redo log changes.
	Switch func(from, to string) error
}

func (o *Options) fill() {
	if o.FS == nil {
		o.FS = OS()
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	if o.Switch == nil {
		o.Switch = func(string, string) error { return nil }
	}
}

func (o *Options) place() place { return place{disk.TreeOr(o.Tree)} }

func (o *Options) vmdk() vmdk.Options {
	return vmdk.Options{Tree: o.Tree, Format: o.Format, Role: o.Role, AllowOutside: o.AllowOutside, Warn: o.Warn}
}

const (
	redoSuffix = ".REDO"
	vmdkSuffix = ".vmdk"

	// maxLevels is how many links a reader of chains takes.
	maxLevels = 64
)

// chain is a disk with all its levels, found by names and descriptors alone.
type chain struct {
	esx2   bool
	levels []level // the base first
	named  int     // the one that the caller named
	// branches are the children of the last level, if there are several.
	branches []string
}

// level is a link of a chain.
type level struct {
	path string // absolute, without symbolic links
	desc *vmdk.DescriptorFile
}

func (c *chain) top() *level { return &c.levels[len(c.levels)-1] }

func chainError(path string, kind error, format string, args ...any) error {
	return &disk.FormatError{File: path, Format: "redo log chain", Offset: -1, Err: kind, Detail: fmt.Sprintf(format, args...)}
}

// findChain finds the chain of which path is a level.
func findChain(path string, o *Options) (*chain, error) {
	at := o.place()
	real, err := at.realPath(path)
	if err != nil {
		return nil, err
	}
	if st, err := at.Stat(real); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, chainError(path, disk.ErrUnsupported, "not a regular file: redo logs lie beside files")
	}
	esx2, desc, err := naming(real, o)
	if err != nil {
		return nil, err
	}
	if esx2 {
		return at.redoChain(real)
	}
	c := &chain{levels: []level{{real, desc}}}
	if err := c.findParents(o); err != nil {
		return nil, err
	}
	c.named = len(c.levels) - 1
	return c, c.findChildren(o)
}

// naming says if a disk has the naming of ESX 2.x, and returns its descriptor
// if it has not. Names come first: the bytes of a raw disk are a guest's.
func naming(path string, o *Options) (esx2 bool, desc *vmdk.DescriptorFile, err error) {
	at := o.place()
	hasRedo := at.exists(path + redoSuffix)
	if strings.HasSuffix(path, redoSuffix) || o.Format == vmdk.SourceRaw {
		return true, nil, nil
	}
	desc, err = at.descriptor(path)
	if err == nil {
		if hasRedo && o.Format != vmdk.SourceVMDK {
			return false, nil, chainError(path, disk.ErrMismatch, "it has both a descriptor and a redo log of ESX 2.x beside it; say with --source-format if it is raw or vmdk")
		}
		return false, desc, nil
	}
	if !errors.Is(err, disk.ErrUnknown) || o.Format == vmdk.SourceVMDK {
		return false, nil, err
	}
	if s, err := at.extentState(path); err != nil {
		return false, nil, err
	} else if s.Type != "" && !hasRedo {
		return false, nil, chainError(path, disk.ErrUnknown, "it is an extent; name the descriptor (the .vmdk without -delta or -s001), or say --source-format raw if it is a raw disk")
	}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".raw", ".dd", ".img":
		return true, nil, nil
	}
	if hasRedo || o.Role == vmdk.RoleConfigured {
		return true, nil, nil
	}
	return false, nil, chainError(path, disk.ErrUnknown, "there is neither a descriptor nor a redo log; if it is a raw disk of ESX 2.x, say --source-format raw")
}

// redoChain finds a chain of ESX 2.x by its names.
func (p place) redoChain(path string) (*chain, error) {
	base := path
	for strings.HasSuffix(base, redoSuffix) {
		base = strings.TrimSuffix(base, redoSuffix)
	}
	c := &chain{esx2: true}
	for name := base; ; name += redoSuffix {
		st, err := p.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			if above := name + redoSuffix; len(c.levels) == 0 || p.exists(above) {
				return nil, chainError(above, disk.ErrCorrupt, "%s, which is to be below it, is missing", filepath.Base(name))
			}
			return c, nil
		}
		switch {
		case err != nil:
			return nil, err
		case !st.Mode().IsRegular():
			return nil, chainError(name, disk.ErrUnsupported, "not a regular file")
		case len(c.levels) == maxLevels:
			return nil, chainError(name, disk.ErrUnsupported, "more than %d levels", maxLevels)
		}
		if name == path {
			c.named = len(c.levels)
		}
		c.levels = append(c.levels, level{path: name})
	}
}

// findParents puts the parents of the only level below it.
func (c *chain) findParents(o *Options) error {
	for {
		child := c.levels[0]
		d := child.desc.Descriptor
		if d.ParentCID == vmdk.NoParent {
			return nil
		}
		if len(c.levels) == maxLevels {
			return chainError(child.path, disk.ErrUnsupported, "the chain has more than %d links", maxLevels)
		}
		path, err := o.place().parentPath(child.path, d.ParentFileNameHint, o.AllowOutside)
		if err != nil {
			return err
		}
		for _, l := range c.levels {
			if l.path == path {
				return chainError(child.path, disk.ErrCorrupt, "its parent %q is in the chain already", d.ParentFileNameHint)
			}
		}
		desc, err := o.place().descriptor(path)
		if err != nil {
			return fmt.Errorf("%s: its parent: %w", child.path, err)
		}
		if desc.Descriptor.CID != d.ParentCID {
			return chainError(child.path, disk.ErrMismatch, "its parentCID is %08x, but the CID of %s is %08x: the parent was changed after the child was made", d.ParentCID, path, desc.Descriptor.CID)
		}
		c.levels = append([]level{{path, desc}}, c.levels...)
	}
}

// ParentPath returns the file that a child's parentFileNameHint means; see
// [Options] for outside. Nothing is opened.
func ParentPath(child, hint string, outside bool) (string, error) {
	return here().parentPath(child, hint, outside)
}

// parentPath returns the file that a parentFileNameHint means: what it names,
// or else the same base name beside the child, as readers of disks have it.
func (p place) parentPath(child, hint string, outside bool) (string, error) {
	if hint == "" || strings.ContainsRune(hint, 0) {
		return "", chainError(child, disk.ErrCorrupt, "parentFileNameHint is missing")
	}
	dir := filepath.Dir(child)
	name := filepath.FromSlash(strings.ReplaceAll(hint, `\`, "/"))
	beside := filepath.Join(dir, filepath.Base(name))
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	path, err := p.RealPath(name)
	if errors.Is(err, fs.ErrNotExist) {
		path, err = p.RealPath(beside)
	}
	if err != nil {
		return "", fmt.Errorf("%s: its parent: %w", child, err)
	}
	if rel, err := filepath.Rel(dir, path); !outside && (err != nil || !filepath.IsLocal(rel)) {
		return "", chainError(child, disk.ErrOutside, "its parent %q leads out of the directory; --allow-outside permits it", hint)
	}
	return path, nil
}

// findChildren puts the children above the last level as long as there is just
// one.
func (c *chain) findChildren(o *Options) error {
	for len(c.levels) < maxLevels {
		names, err := o.place().childrenIn(filepath.Dir(c.top().path), c.top().path)
		if err != nil {
			return err
		}
		if len(names) != 1 {
			c.branches = names
			return nil
		}
		desc, err := o.place().descriptor(names[0])
		if err != nil {
			return err
		}
		for _, l := range c.levels {
			if l.path == names[0] {
				return chainError(names[0], disk.ErrCorrupt, "is above and below %s", c.top().path)
			}
		}
		if want := c.top().desc.Descriptor.CID; desc.Descriptor.ParentCID != want {
			o.Warn(fmt.Sprintf("%s: names %s as its parent, but its parentCID is %08x and not %08x: it is not taken for a level of the chain", names[0], c.top().path, desc.Descriptor.ParentCID, want))
			c.branches = names
			return nil
		}
		c.levels = append(c.levels, level{names[0], desc})
	}
	return chainError(c.top().path, disk.ErrUnsupported, "the chain has more than %d links", maxLevels)
}

// checkConfig refuses a chain of which the configuration names another level
// than the top: something else may depend on the levels above.
func (c *chain) checkConfig(o *Options) error {
	if o.Config == "" || c.esx2 || c.named == len(c.levels)-1 && len(c.branches) == 0 {
		return nil
	}
	above := c.branches
	if c.named < len(c.levels)-1 {
		above = []string{c.levels[c.named+1].path}
	}
	return chainError(c.levels[c.named].path, disk.ErrUnsupported, "%s names it, but there are children over it (%s): something else may depend on them", filepath.Base(o.Config), list(above))
}
