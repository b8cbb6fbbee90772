// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// Limits of levels above the base.
const (
	MaxRedoLogs = 2  // ESX 2.x: X.REDO and X.REDO.REDO
	MaxDeltas   = 32 // as of ESX 3; the limit of vSphere
)

// AddOptions say how a redo log is added.
type AddOptions struct {
	Options

	// Mode is the mode of the disk as its configuration has it. Independent
	// disks take no part in snapshots, and redo logs of nonpersistent ones are
	// dropped: both are refused.
	Mode string

	// Announce is told the path of the new top and its link id right before
	// anything is made: who keeps a record can tell the level from then on. An
	// error of it ends Add. It may be nil.
	Announce func(path string, linkID uint32) error
}

// Added is what Add has made.
type Added struct {
	Path   string   // of the new top: the redo log, or the descriptor of the delta
	Parent string   // what was the top before
	Level  int      // of the new top
	Files  []string // that were created
	ESX2   bool     // named as ESX 2.x does it
	LinkID uint32   // noted in the new level; see [vmdk.COWDSpec]
}

// Add puts a new redo log over the top of the disk of which path is a level.
// What is below it does not change any more. On ESX 2.x naming it is called
// like the top with .REDO behind; otherwise a delta with the next free number
// is made beside the top, whatever the kind of the base is, and Switch is told.
//
// It refuses a disk that is open for writing (ErrInUse), one whose physical
// device a mapping passes through, and more levels than products take
// (ErrUnsupported). Files appear when they are complete; when it has been
// interrupted, the next call ends what is there.
func Add(ctx context.Context, path string, o AddOptions) (*Added, error) {
	o.fill()
	if err := o.checkMode(path); err != nil {
		return nil, err
	}
	j, unlock, err := begin(path, OpAdd, &o.Options)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if j != nil {
		if done, err := j.resumeAdd(&o); done != nil || err != nil {
			return done, err
		}
	}
	c, err := findChain(path, &o.Options)
	if err != nil {
		return nil, err
	}
	if err := c.mayGrow(&o.Options); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if c.esx2 {
		return c.addRedo(&o)
	}
	return c.addDelta(&o)
}

func (o *AddOptions) announce(path string, linkID uint32) error {
	if o.Announce == nil {
		return nil
	}
	return o.Announce(path, linkID)
}

func (o *AddOptions) checkMode(path string) error {
	mode := strings.ToLower(o.Mode)
	switch {
	case strings.HasPrefix(mode, "independent"):
		return chainError(path, disk.ErrUnsupported, "the disk is %s: it takes no part in snapshots", mode)
	case mode == "nonpersistent":
		return chainError(path, disk.ErrUnsupported, "the disk is nonpersistent: a redo log would be dropped at power-off")
	}
	return nil
}

// mayGrow refuses a chain that cannot have another level.
func (c *chain) mayGrow(o *Options) error {
	top := c.top()
	if len(c.branches) > 0 {
		return chainError(top.path, disk.ErrUnsupported, "it has several children (%s): name the top of one branch", list(c.branches))
	}
	if c.named != 0 && c.named != len(c.levels)-1 {
		return chainError(c.levels[c.named].path, disk.ErrUnsupported, "%s lies over it; name the top or the base", filepath.Base(c.levels[c.named+1].path))
	}
	if err := c.checkConfig(o); err != nil {
		return err
	}
	most := MaxDeltas
	if c.esx2 {
		most = MaxRedoLogs
	}
	if len(c.levels) > most {
		return chainError(top.path, disk.ErrUnsupported, "there are %d redo logs already, the most that products take; commit one first", most)
	}
	files, err := c.filesOf(top)
	if err != nil {
		return err
	}
	if !o.AllowInUse {
		if err := checkUse(readersAllowed, files...); err != nil {
			return err
		}
	}
	return c.checkReadable(o)
}

// filesOf returns the paths of all files of a level.
func (c *chain) filesOf(l *level) ([]string, error) {
	files := []string{l.path}
	if l.desc == nil || l.desc.Embedded {
		return files, nil
	}
	for _, e := range l.desc.Descriptor.Extents {
		if e.Type == vmdk.ExtentZero {
			continue
		}
		name := filepath.FromSlash(strings.ReplaceAll(e.Name, `\`, "/"))
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(l.path), name)
		}
		files = append(files, name)
	}
	return files, nil
}

// checkReadable opens the whole chain. A delta over a disk that cannot be read
// would only make things worse. The content of a raw device mapping is not in
// its files; only the kind of mapping can be looked at.
func (c *chain) checkReadable(o *Options) error {
	if !c.esx2 {
		base := c.levels[0]
		mapping, physical := rawMapping(base.desc.Descriptor)
		if physical {
			return chainError(base.path, disk.ErrUnsupported, "a raw device mapping in physical mode has no redo logs: the device gets all commands of the guest")
		}
		if mapping {
			return nil
		}
	}
	d, err := c.open(o)
	if err != nil {
		return err
	}
	return d.Close()
}

func rawMapping(d *vmdk.Descriptor) (mapping, physical bool) {
	for _, e := range d.Extents {
		mapping = mapping || e.Type == vmdk.ExtentVMFSRDM
		physical = physical || e.Type == vmdk.ExtentVMFSRDM && strings.HasSuffix(strings.ToLower(e.Name), "-rdmp.vmdk")
	}
	switch strings.ToLower(d.CreateType) {
	case "vmfspassthroughrawdevicemap", "vmfsrdmp":
		return true, true
	}
	return mapping, physical
}

// open opens the content of the chain.
func (c *chain) open(o *Options) (*vmdk.Disk, error) { return c.openLevel(len(c.levels)-1, o) }

// openLevel opens the content that a level and those below it make.
func (c *chain) openLevel(i int, o *Options) (*vmdk.Disk, error) {
	v := o.vmdk()
	path := c.levels[i].path
	switch {
	case !c.esx2:
		v.Format = vmdk.SourceVMDK
		return vmdk.Open(path, v)
	case i == 0:
		v.Format = vmdk.SourceRaw
		return vmdk.Open(path, v)
	}
	v.Format = vmdk.SourceAuto
	return vmdk.OpenRedo(path, v)
}

// addRedo adds a level by name.
func (c *chain) addRedo(o *AddOptions) (*Added, error) {
	top := c.top().path
	st, err := os.Stat(c.levels[0].path)
	if err != nil {
		return nil, err
	}
	path := top + redoSuffix
	spec := vmdk.COWDSpec{SizeBytes: st.Size(), ParentName: filepath.Base(top), LinkID: newCID()}
	if err := o.announce(path, spec.LinkID); err != nil {
		return nil, err
	}
	if err := createCOWD(o.FS, path, top, spec); err != nil {
		return nil, err
	}
	if err := o.Switch(top, path); err != nil {
		return nil, err
	}
	return &Added{Path: path, Parent: top, Level: len(c.levels), Files: []string{path}, ESX2: true, LinkID: spec.LinkID}, nil
}

func createCOWD(fsys FS, path, like string, spec vmdk.COWDSpec) error {
	return writeFile(fsys, path, like, func(f File) error {
		_, err := vmdk.CreateCOWD(f, spec)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	})
}

// addDelta adds a level with a descriptor: extent first, descriptor last.
func (c *chain) addDelta(o *AddOptions) (*Added, error) {
	top := c.top()
	d := top.desc.Descriptor
	if size := d.Sectors() * disk.SectorSize; size > vmdk.MaxCOWDBytes {
		return nil, chainError(top.path, disk.ErrUnsupported, "its capacity of %d bytes is more than a delta of this kind can have (%d)", size, int64(vmdk.MaxCOWDBytes))
	}
	stem, err := freeDelta(top.path)
	if err != nil {
		return nil, err
	}
	path, extent := stem+vmdkSuffix, stem+"-delta"+vmdkSuffix
	text, err := deltaDescriptor(top, filepath.Base(extent))
	if err != nil {
		return nil, err
	}
	spec := vmdk.COWDSpec{SizeBytes: d.Sectors() * disk.SectorSize, LinkID: newCID()}
	if err := o.announce(path, spec.LinkID); err != nil {
		return nil, err
	}
	j, err := newJournal(OpAdd, phaseSwitch, c, top, top, nil)
	if err != nil {
		return nil, err
	}
	// The child is not there yet: what matters of it is the name.
	j.path, j.Child = journalPath(path, OpAdd), &identity{Path: filepath.Base(path)}
	j.Files = []string{filepath.Base(extent)}
	if err := j.put(o.FS, phaseSwitch); err != nil {
		return nil, err
	}
	if err := createCOWD(o.FS, extent, top.path, spec); err != nil {
		return nil, err
	}
	if err := writeFile(o.FS, path, top.path, func(f File) error { return writeAll(f, text) }); err != nil {
		return nil, err
	}
	return j.finishAdd(len(c.levels), spec.LinkID, &o.Options)
}

// finishAdd makes the configuration name the new top.
func (j *journal) finishAdd(level int, linkID uint32, o *Options) (*Added, error) {
	if err := o.Switch(j.parent(), j.child()); err != nil {
		return nil, err
	}
	if err := j.end(o.FS); err != nil {
		return nil, err
	}
	return &Added{Path: j.child(), Parent: j.parent(), Level: level, Files: []string{j.abs(j.Files[0]), j.child()}, LinkID: linkID}, nil
}

// deltaDescriptor returns the descriptor of a new delta, as ESX writes it.
func deltaDescriptor(parent *level, extent string) ([]byte, error) {
	p := parent.desc.Descriptor
	d := vmdk.Descriptor{
		Version: 1, Encoding: p.Encoding, CID: unwritten, ParentCID: p.CID,
		CreateType: vmdk.TypeVMFSSparse, ParentFileNameHint: filepath.Base(parent.path),
		Header:  []vmdk.Entry{{Key: "isNativeSnapshot", Value: "no"}},
		Extents: []vmdk.Extent{{Access: vmdk.AccessRW, Sectors: p.Sectors(), Type: vmdk.ExtentVMFSSparse, Name: extent}},
		DDB:     []vmdk.Entry{{Key: keyLongContentID, Value: newLongContentID(unwritten)}},
	}
	return d.Marshal()
}

var deltaNumber = regexp.MustCompile(`-[0-9]{6}$`)

// freeDelta returns the path, without extension, of the delta with the lowest
// number that no file of the directory has.
func freeDelta(top string) (string, error) {
	stem := filepath.Base(top)
	if strings.EqualFold(filepath.Ext(stem), vmdkSuffix) {
		stem = stem[:len(stem)-len(vmdkSuffix)]
	}
	stem = deltaNumber.ReplaceAllString(stem, "")
	entries, err := os.ReadDir(filepath.Dir(top))
	if err != nil {
		return "", err
	}
	taken := map[string]bool{}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), stem+"-")
		if ok && len(rest) > 6 && (rest[6] == '.' || rest[6] == '-') && strings.HasSuffix(strings.ToLower(rest), vmdkSuffix) {
			taken[rest[:6]] = true
		}
	}
	for n := 1; n < 1e6; n++ {
		if number := fmt.Sprintf("%06d", n); !taken[number] {
			return filepath.Join(filepath.Dir(top), stem+"-"+number), nil
		}
	}
	return "", chainError(top, disk.ErrUnsupported, "no number is free for another delta")
}

// resumeAdd ends an addition that was interrupted. It returns nil if nothing
// is left of it.
func (j *journal) resumeAdd(o *AddOptions) (*Added, error) {
	if exists(j.child()) {
		c, err := findChain(j.child(), &o.Options)
		if err == nil {
			return j.carryOnAdd(c.named, o)
		}
		if !errors.Is(err, disk.ErrMismatch) {
			return nil, err
		}
		// The disk was written to in the meantime: the delta, which nothing
		// has named yet, does not fit any more.
		if err := j.checkEmpty(); err != nil {
			return nil, err
		}
	}
	for _, p := range []string{j.child(), j.child() + tmpSuffix, j.abs(j.Files[0]) + tmpSuffix} {
		if err := removeIfThere(o.FS, p); err != nil {
			return nil, err
		}
	}
	dir := filepath.Dir(j.path)
	if err := o.FS.SyncDir(dir); err != nil {
		return nil, err
	}
	if err := removeFiles(o.FS, dir, j.Files); err != nil {
		return nil, err
	}
	return nil, j.end(o.FS)
}

// carryOnAdd ends an addition of which all files are there.
func (j *journal) carryOnAdd(level int, o *AddOptions) (*Added, error) {
	s, err := extentState(j.abs(j.Files[0]))
	if err != nil {
		return nil, err
	}
	if err := o.announce(j.child(), s.LinkID); err != nil {
		return nil, err
	}
	return j.finishAdd(level, s.LinkID, &o.Options)
}

// checkEmpty refuses a delta that has been written to.
func (j *journal) checkEmpty() error {
	l, err := vmdk.OpenLink(j.child(), vmdk.Options{Format: vmdk.SourceVMDK})
	if err != nil {
		return err
	}
	defer l.Close() //nolint:errcheck // only read
	for r, err := range l.Runs(0, l.Size()) {
		if err != nil {
			return err
		}
		if r.Kind != disk.Parent {
			return j.fail(disk.ErrMismatch, "%s holds data but its parent has changed since it was made", filepath.Base(j.child()))
		}
	}
	return nil
}
