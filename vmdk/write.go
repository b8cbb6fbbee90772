// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// Format is a kind of file that a disk can be restored to.
type Format string

// The formats that Create knows.
const (
	FormatRaw    Format = "raw"    // the bytes of the disk and nothing else
	FormatFlat   Format = "flat"   // monolithicFlat: descriptor and flat extent
	FormatVMFS   Format = "vmfs"   // the same as ESX has it: a VMFS extent
	FormatSparse Format = "sparse" // monolithicSparse: one file that grows
	FormatSplit  Format = "split"  // twoGbMaxExtentSparse: files below 2 GiB
	FormatStream Format = "stream" // streamOptimized: compressed, as in an OVA
)

// Formats returns the formats that Create knows.
func Formats() []Format {
	return []Format{FormatRaw, FormatFlat, FormatVMFS, FormatSparse, FormatSplit, FormatStream}
}

// CreateSpec describes a new disk. Format, Name and SizeBytes are needed; an
// entry of DDB stands in for the field of the same meaning if that is empty.
type CreateSpec struct {
	Format Format
	Dir    string // existing directory of the files, the current one if empty
	Name   string // of the descriptor or the single file, such as web01.vmdk

	// SizeBytes is the capacity. Every format but raw counts in sectors and
	// rounds it up.
	SizeBytes int64

	Adapter         string   // ddb.adapterType; DefaultAdapter if unknown
	Geometry        Geometry // computed by GeometryFor if zero
	CID             uint32   // random if 0
	LongContentID   string   // 32 hex digits; random, ending in the CID, if empty
	UUID            string   // ddb.uuid as it stands there; none if empty
	HWVersion       string   // ddb.virtualHWVersion
	ToolsVersion    string   // ddb.toolsVersion; none if empty
	ThinProvisioned bool     // vmfs: the disk is thin, mark it so
	DDB             []Entry  // further disk data base entries, kept verbatim

	Compression int // stream: deflate level 1 to 9, 0 for the default
	Workers     int // stream: goroutines that compress, 0 for one per CPU
}

// Writer is a disk being written to files.
type Writer interface {
	disk.Writer

	// Files returns the names in CreateSpec.Dir that were created or will have
	// been when Close returns, the descriptor or single file last.
	Files() []string
}

// Create starts a new disk. Every file is created anew: one that exists is
// never touched but gives fs.ErrExist. Abort, and a Close that fails, remove
// what was created; Close makes files and directory durable. Without either
// the files are recognisably incomplete, except those of raw.
//
// raw, flat and vmfs take writes in any order from any goroutine; sparse, split
// and stream are ordered. They store no 64 KiB grain that is all zero, and take
// writes of any number of sectors; large ones that begin at a grain are
// fastest. They use a few MiB of memory whatever the size of the disk; only the
// grain directory of stream, 4 bytes per 32 MiB of disk, and the names of split,
// one per 2047 MiB, grow with it.
func Create(spec CreateSpec) (Writer, error) {
	if err := spec.check(); err != nil {
		return nil, fmt.Errorf("vmdk: create %s: %w", spec.Name, err)
	}
	if spec.Dir == "" {
		spec.Dir = "."
	}
	switch spec.Format {
	case FormatRaw, FormatFlat, FormatVMFS:
		return createFlat(&spec)
	case FormatSparse, FormatSplit:
		return createSparse(&spec)
	default: // check has let nothing else pass
		return createStream(&spec)
	}
}

// CreateStream starts a streamOptimized disk on w, which only goes forward and
// is never closed. spec.Dir and spec.Format are ignored; spec.Name is the name
// that the embedded descriptor gives the file. Nothing is written before the
// first WriteAt or Close. Abort leaves a stream that no reader takes for
// complete.
func CreateStream(w io.Writer, spec CreateSpec) (disk.Writer, error) {
	spec.Format = FormatStream
	if err := spec.check(); err != nil {
		return nil, fmt.Errorf("vmdk: create %s: %w", spec.Name, err)
	}
	return newStreamWriter(w, &spec)
}

func (s *CreateSpec) check() error {
	if !slices.Contains(Formats(), s.Format) {
		return fmt.Errorf("format %q: %w", s.Format, disk.ErrUnsupported)
	}
	odd := func(r rune) bool { return r < ' ' || r == 0x7f || r == '/' || r == '\\' || r == '"' }
	if s.Name == "" || s.Name == "." || s.Name == ".." || strings.ContainsFunc(s.Name, odd) {
		return fmt.Errorf("file name %q: has to be a plain name without directories, quotation marks and control characters: %w", s.Name, fs.ErrInvalid)
	}
	least := int64(1)
	if s.Format == FormatRaw {
		least = 0
	}
	if s.SizeBytes < least || s.SizeBytes > disk.MaxSize {
		return fmt.Errorf("capacity of %d bytes: at least %d and at most %d are possible: %w", s.SizeBytes, least, int64(disk.MaxSize), disk.ErrUnsupported)
	}
	if s.Compression < 0 || s.Compression > 9 {
		return fmt.Errorf("compression level %d: 0 to 9 are possible: %w", s.Compression, fs.ErrInvalid)
	}
	if s.Workers < 0 {
		return fmt.Errorf("%d workers: %w", s.Workers, fs.ErrInvalid)
	}
	return nil
}

// sectors returns the capacity.
func (s *CreateSpec) sectors() int64 { return ceilDiv(s.SizeBytes, disk.SectorSize) }

// base returns the name that names of extents begin with.
func (s *CreateSpec) base() string {
	if n := len(s.Name) - len(vmdkSuffix); n > 0 && strings.EqualFold(s.Name[n:], vmdkSuffix) {
		return s.Name[:n]
	}
	return s.Name
}

const vmdkSuffix = ".vmdk"
