// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"

	"github.com/vmstream/vmstream/disk"
)

// UpdateSpec says what an [Updater] writes to.
type UpdateSpec struct {
	Name      string // of the file, for errors
	FileBytes int64  // length of the file

	// SizeBytes is the length of the extent as its descriptor has it; 0 takes
	// the one in the header.
	SizeBytes int64

	// Fill is the content below the extent, from its first byte on: what a new
	// grain gets where nothing is written to it. nil is for an extent without a
	// parent: zeros, and zeros that are written need no grain.
	Fill io.ReaderAt

	// Redundant says that the extent had a second copy of its tables before an
	// update that did not end: see [Updater].
	Redundant bool
}

// Updater writes into a sparse extent that exists, COWD or hosted sparse
// without compression. Grains that are stored are overwritten in their place,
// others are appended to the file as whole grains. It is not safe for
// concurrent use.
//
// Whatever is lost when the machine stops, the extent stays readable, and every
// sector reads as before or as written: data is durable before an entry of a
// table points at it, tables before the directory points at them. An extent
// with two copies of its tables is said to have one while an update goes on,
// because the copies cannot change at once and readers compare them; Close
// completes the second. Who resumes an update that did not end says so in
// UpdateSpec.Redundant, writes at least what was to be written, and closes it.
//
// It keeps 4 bytes per table of the extent and up to 16 MiB of tables in memory.
type Updater struct {
	f    ExtentFile
	spec UpdateSpec
	src  *source

	sizeBytes, grainBytes, entries int64
	grainSectors, tableSectors     uint64
	alignSectors                   uint64 // of new grains
	dirSector                      uint64
	dir                            *directory
	next                           uint64 // first sector that is free
	tables                         map[int64]*updateTable
	format                         updateFormat

	begun  bool // the header says that an update goes on, or is to say so
	err    error
	closed bool
}

// updateFormat is what the two formats do differently. next is the first free
// sector.
type updateFormat interface {
	// begin says in the header that the tables are going to change.
	begin() error
	// touch is told of every table through which something is written.
	touch(table int64)
	// newTable places a further copy of a new table and returns the next free sector.
	newTable(table int64, next uint64) uint64
	// putDirectory writes copies of the directory before the first one.
	putDirectory(tables []int64) error
	// finish completes copies and header; everything else is durable.
	finish(next uint64) error
}

// updateTable is a grain table in memory.
type updateTable struct {
	entries      []uint32
	dirty, isNew bool
}

// updateTableBytes bounds the tables in memory.
const updateTableBytes = 16 << 20

// OpenUpdate opens the sparse extent f for writing. All its tables are read and
// checked first; an extent that is damaged is refused, as are formats that
// cannot be written in place (ErrUnsupported). f stays the caller's.
func OpenUpdate(ctx context.Context, f ExtentFile, spec UpdateSpec) (*Updater, error) {
	var magic [4]byte
	if err := disk.ReadFull(f, magic[:], 0); err != nil {
		return nil, fmt.Errorf("%s: %w", spec.Name, err)
	}
	u := &Updater{
		f: f, spec: spec, tables: map[int64]*updateTable{},
		src: &source{r: f, sizeBytes: spec.FileBytes, path: spec.Name},
	}
	if spec.SizeBytes%disk.SectorSize != 0 {
		return nil, fmt.Errorf("%s: extent of %d bytes: %w", spec.Name, spec.SizeBytes, fs.ErrInvalid)
	}
	switch string(magic[:]) {
	case "COWD":
		return u, u.openCOWD(ctx)
	case "KDMV":
		return u, u.openHosted(ctx)
	}
	return nil, &disk.FormatError{
		File: spec.Name, Field: "magic", Offset: 0, Err: disk.ErrUnsupported,
		Detail: "only COWD and hosted sparse extents can be written in place",
	}
}

func (u *Updater) extentSpec() extentSpec {
	hole := disk.Zero
	if u.spec.Fill != nil {
		hole = disk.Parent
	}
	return extentSpec{sectors: u.spec.SizeBytes / disk.SectorSize, hole: hole}
}

// adopt takes over what a reader knows about the extent, after all its tables
// have been checked, and finds the first sector behind everything.
func (u *Updater) adopt(ctx context.Context, g *grainExtent, l *fileLayout) (grains int64, err error) {
	if err := g.check(ctx); err != nil {
		return 0, err
	}
	u.dir, u.sizeBytes, u.grainBytes, u.entries = g.dir, g.sizeBytes, g.grainBytes, g.entries
	u.grainSectors = uint64(g.grainBytes / disk.SectorSize)
	u.tableSectors = uint64(g.tableFileBytes / disk.SectorSize)
	u.next = l.metadataEnd()
	check := grainChecker{l: l}
	for i := range g.dir.all {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		t, err := g.table(i)
		if err != nil {
			return 0, err
		}
		for grain, sector := range g.stored(i, t) {
			if why, kind := check.trouble(uint64(sector), g.grainLength(grain)); kind != nil {
				return 0, u.src.fail(kind, fmt.Sprintf("grain table entry of grain %d", grain), -1, "%s", why)
			}
			grains++
			u.next = max(u.next, uint64(sector)+u.grainSectors)
		}
	}
	return grains, nil
}

// Size returns the length of the extent in bytes of disk.
func (u *Updater) Size() int64 { return u.sizeBytes }

// Redundant reports if the extent has a second copy of its tables. Who may have
// to resume notes it before the first write.
func (u *Updater) Redundant() bool {
	h, ok := u.format.(*hostedUpdate)
	return ok && h.second != nil
}

// WriteAt writes whole sectors at the offset off of the extent. Nothing is
// durable, and new grains cannot be read, before Flush or Close. After an error
// nothing more is taken.
func (u *Updater) WriteAt(p []byte, off int64) (int, error) {
	if u.err == nil && (off < 0 || off > u.sizeBytes || int64(len(p)) > u.sizeBytes-off || off%disk.SectorSize != 0 || len(p)%disk.SectorSize != 0) {
		u.err = fmt.Errorf("%s: write of %d bytes at %d: whole sectors of the %d bytes can be written: %w", u.spec.Name, len(p), off, u.sizeBytes, fs.ErrInvalid)
	}
	done := 0
	for u.err == nil && done < len(p) {
		var n int
		n, u.err = u.step(p[done:], off+int64(done))
		done += n
	}
	return done, u.err
}

// step writes the beginning of p: as many bytes as go to one piece of the file.
func (u *Updater) step(p []byte, off int64) (int, error) {
	if int64(len(u.tables))*u.entries*4 > updateTableBytes {
		if err := u.Flush(); err != nil {
			return 0, err
		}
		clear(u.tables)
	}
	grain := off / u.grainBytes
	e, err := u.entry(grain)
	if err != nil {
		return 0, err
	}
	if e > gteZero {
		n, err := u.storedLength(grain, e, off, int64(len(p)))
		if err != nil {
			return 0, err
		}
		return u.f.WriteAt(p[:n], int64(e)*disk.SectorSize+off-grain*u.grainBytes)
	}
	return u.writeAbsent(p, off)
}

// storedLength returns how many of n bytes at off lie behind each other in the file.
func (u *Updater) storedLength(grain int64, first uint32, off, n int64) (int64, error) {
	end := (grain + 1) * u.grainBytes
	for k := int64(1); end < off+n; k++ {
		e, err := u.entry(grain + k)
		if err != nil {
			return 0, err
		}
		if uint64(e) != uint64(first)+uint64(k)*u.grainSectors {
			break
		}
		end += u.grainBytes
	}
	return min(n, end-off), nil
}

// entry returns the grain table entry of a grain.
func (u *Updater) entry(grain int64) (uint32, error) {
	t, err := u.table(grain / u.entries)
	if err != nil || t == nil {
		return 0, err
	}
	e := t.entries[grain%u.entries]
	if e > gteZero && uint64(e)+u.grainSectors > u.next {
		return 0, u.src.fail(disk.ErrCorrupt, fmt.Sprintf("grain table entry of grain %d", grain), -1, "is %d: it was changed while the extent was being written", e)
	}
	return e, nil
}

// table returns table i, nil if there is none.
func (u *Updater) table(i int64) (*updateTable, error) {
	if t := u.tables[i]; t != nil {
		return t, nil
	}
	at := u.dir.at(i)
	if at == 0 {
		return nil, nil
	}
	b := make([]byte, u.entries*4)
	if err := disk.ReadFull(u.f, b, int64(at)*disk.SectorSize); err != nil {
		return nil, fmt.Errorf("%s: grain table %d: %w", u.spec.Name, i, err)
	}
	t := &updateTable{entries: make([]uint32, u.entries)}
	for j := range t.entries {
		t.entries[j] = binary.LittleEndian.Uint32(b[j*4:])
	}
	u.tables[i] = t
	u.format.touch(i)
	return t, nil
}
