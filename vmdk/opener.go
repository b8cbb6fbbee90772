// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// opener opens the links of one disk.
type opener struct {
	options Options
	tree    disk.Tree
	shared  *shared
}

func newOpener(o Options) (*opener, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	return &opener{options: o, tree: disk.TreeOr(o.Tree), shared: newShared(o.Warn)}, nil
}

// chainLink is a link while its chain is being opened.
type chainLink struct {
	link *Link
	dir  directoryOf // of the link's own file
}

// openNamed opens the link of a named file and takes the file over. With
// alone, a COWD file without a descriptor may be a child.
func (op *opener) openNamed(e *entryFile, alone bool) (*chainLink, error) {
	l, err := op.openKind(e, alone)
	if err != nil {
		return nil, errors.Join(err, e.file.Close())
	}
	return &chainLink{link: l, dir: e.dir}, nil
}

func (op *opener) openKind(e *entryFile, alone bool) (*Link, error) {
	switch e.kind {
	case kindRaw:
		return op.openRawLink(e.file, op.options.Role == RoleConfigured && op.options.Format == SourceAuto)
	case kindCOWD:
		return op.openCOWDAlone(e.file, alone)
	case kindSESparse:
		return nil, refuseExtent(e.file, seFormat)
	default:
		return op.openDescribed(e)
	}
}

func refuseExtent(f disk.RawFile, format string) error {
	return &disk.FormatError{
		File: f.Name(), Format: format, Offset: -1, Err: disk.ErrUnsupported,
		Detail: "it is an extent without a descriptor of its own, so its parent and its neighbours are not known; name the descriptor (the .vmdk without -delta, -sesparse or -s001)",
	}
}

// openRawLink makes a link of a raw file or device. A file without a
// descriptor that is a disk by its role has whole sectors.
func (op *opener) openRawLink(f disk.RawFile, byRole bool) (*Link, error) {
	if byRole && f.Size()%disk.SectorSize != 0 {
		return nil, &disk.FormatError{
			File: f.Name(), Format: "raw disk", Field: "length", Offset: -1, Err: disk.ErrCorrupt,
			Detail: fmt.Sprintf("%d bytes are not a whole number of sectors; to read it nevertheless, say --source-format raw", f.Size()),
		}
	}
	if byRole && f.Size()%(1<<20) == disk.SectorSize {
		op.shared.warnf("%s: is one sector longer than whole MiB: possibly a 512-byte trailer, which is kept", f.Name())
	}
	kind := KindRaw
	if f.Device() {
		kind = KindDevice
	}
	l := &Link{info: LinkInfo{Path: f.Name(), Kind: kind, ParentCID: NoParent}}
	x := &flatExtent{file: f, sizeBytes: f.Size(), storedBytes: f.Size()}
	x.info = ExtentInfo{Path: f.Name(), Type: ExtentFlat, SizeBytes: f.Size(), FileBytes: f.Size()}
	l.add(x)
	return l, nil
}

func sourceOf(f disk.RawFile) *source {
	return &source{r: f, sizeBytes: f.Size(), path: f.Name()}
}

// openCOWDAlone opens a COWD extent that no descriptor names.
func (op *opener) openCOWDAlone(f disk.RawFile, child bool) (*Link, error) {
	src := sourceOf(f)
	h, err := loadCOWDHeader(src)
	if err != nil {
		return nil, err
	}
	kind, hole := KindRedo, disk.Parent
	switch {
	case h.isRoot() && !(child && isRedoName(f.Name())):
		kind, hole = TypeVMFSSparse, disk.Zero
	case !child:
		return nil, refuseExtent(f, cowdFormat)
	}
	x, h, err := openCOWD(src, op.shared, extentSpec{hole: hole})
	if err != nil {
		return nil, err
	}
	x.closer = f
	l := &Link{info: LinkInfo{Path: f.Name(), Kind: kind, ParentCID: NoParent}, cowd: &h}
	l.add(x)
	return l, nil
}

// openDescribed opens a link that has a descriptor, as a file or embedded.
// On success the file is closed, or belongs to the link.
func (op *opener) openDescribed(e *entryFile) (*Link, error) {
	var d *Descriptor
	var err error
	if e.kind == kindHosted {
		d, err = readEmbedded(e.file)
	} else {
		d, err = readDescriptorFile(e.file)
	}
	if err != nil {
		return nil, err
	}
	if err := op.judge(e.file.Name(), d); err != nil {
		return nil, err
	}
	l := &Link{descriptor: d, info: LinkInfo{
		Path: e.file.Name(), Kind: d.CreateType, CreateType: d.CreateType,
		CID: d.CID, ParentCID: d.ParentCID, ParentFileNameHint: d.ParentFileNameHint,
	}}
	if l.info.Kind == "" {
		l.info.Kind = "custom"
	}
	if e.kind == kindHosted {
		x, err := openHosted(sourceOf(e.file), op.shared, extentSpec{sectors: d.Extents[0].Sectors, hole: holeOf(d)})
		if err != nil {
			return nil, err
		}
		x.closer = e.file
		l.add(x)
		return l, nil
	}
	if err := op.openExtents(l, &e.dir); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if err := e.file.Close(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// readEmbedded reads the descriptor inside a hosted sparse extent. It has to
// say that the disk is this file and nothing else; the name in it is not
// compared, for it stays behind when a disk is renamed.
func readEmbedded(f disk.RawFile) (*Descriptor, error) {
	src := sourceOf(f)
	src.format = sparseFormat
	h, err := loadSparseHeader(src, 0)
	if err != nil {
		return nil, err
	}
	b, err := h.embeddedDescriptor(src)
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, refuseExtent(f, sparseFormat)
	}
	d, err := parseDescriptorOf(f.Name(), b)
	if err != nil {
		return nil, err
	}
	if len(d.Extents) != 1 || d.Extents[0].Type != ExtentSparse {
		return nil, &disk.FormatError{
			File: f.Name(), Format: descriptorFormat, Field: "extents", Offset: -1, Err: disk.ErrUnsupported,
			Detail: "an embedded descriptor has to name one SPARSE extent, the file itself",
		}
	}
	return d, nil
}

func holeOf(d *Descriptor) disk.Kind {
	if d.ParentCID != NoParent {
		return disk.Parent
	}
	return disk.Zero
}

// judge refuses what cannot be read and warns of what is odd.
func (op *opener) judge(path string, d *Descriptor) error {
	if err := refuseDescriptor(path, d); err != nil {
		return err
	}
	if d.ParentCID == NoParent && d.ParentFileNameHint != "" {
		return &disk.FormatError{
			File: path, Format: descriptorFormat, Field: "parentCID", Offset: -1, Err: disk.ErrMismatch,
			Detail: "says that there is no parent, but parentFileNameHint names " + quoteName(d.ParentFileNameHint),
		}
	}
	if !knownCreateType(d.CreateType) {
		op.shared.warnf("%s: the create type %s is not known; the extents decide", path, quoteName(d.CreateType))
	}
	for _, e := range d.DDB {
		switch strings.ToLower(e.Key) {
		case "ddb.iofilters", "ddb.sidecars":
			op.shared.warnf("%s: has %s: a filter may keep data outside the disk's files", path, e.Key)
		}
	}
	return nil
}

func knownCreateType(s string) bool {
	for _, t := range []string{
		TypeMonolithicSparse, TypeMonolithicFlat, TypeTwoGbSparse, TypeTwoGbFlat, TypeStreamOptimized,
		TypeVMFS, TypeVMFSSparse, TypeSESparse, TypeRDM, TypeRDMPhysical, "vmfsRDM", "vmfsRDMP", "2GbMaxExtentSparse", "2GbMaxExtentFlat",
		"vmfsPreallocated", "vmfsEagerZeroedThick", "vmfsThick", "vmfsThin", "vmfsSeSparse", "vmfsSparse6",
		"fullDevice", "partitionedDevice", "custom",
	} {
		if strings.EqualFold(s, t) {
			return true
		}
	}
	return false
}
