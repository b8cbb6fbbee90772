// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// Names of the members that every stream has, and of the formats they hold.
const (
	OpeningName = "vmstream.json"
	SumsName    = "SHA256SUMS"
	IndexName   = "vmstream-index.json"

	FormatName      = "vmstream/1"
	IndexFormatName = "vmstream-index/1"
)

// Limits of what a reader accepts, and a writer writes.
const (
	MinExtentBytes     = 1 << 20
	MaxExtentBytes     = vmdk.MaxSegmentBytes
	DefaultExtentBytes = 64 << 20

	maxDisks       = 1024
	maxFiles       = 65536
	maxOpeningSize = 16 << 20
	maxNameBytes   = 255
	// A disk takes three objects in the opening record and one for each entry
	// of its data base.
	maxOpeningObjects = 2*maxFiles + 16*maxDisks

	// MaxIDBytes is how long the id of a backup may be.
	MaxIDBytes = 64

	// MaxDepth is how many increments may lie on a full backup.
	MaxDepth = 999
)

// Consistency says what state a backup's disks are in.
type Consistency string

// The levels of consistency, weakest first.
const (
	Crash       Consistency = "crash"       // as after a power cut
	Filesystem  Consistency = "filesystem"  // file systems were frozen
	Application Consistency = "application" // applications were quiesced
	PoweredOff  Consistency = "powered-off" // the VM was not running
)

// Opening is the first member of a stream, vmstream.json: what is to come.
type Opening struct {
	Format      string       `json:"format"`
	ID          string       `json:"id"`
	ParentID    string       `json:"parent_id,omitempty"`
	Depth       int          `json:"depth"` // 0 full, else the number of streams below
	Created     time.Time    `json:"created"`
	Tool        string       `json:"tool"`
	Name        string       `json:"name"`
	Consistency Consistency  `json:"consistency"`
	ExtentBytes int64        `json:"extent_bytes"`
	Disks       []DiskRecord `json:"disks"`
	Files       []FileRecord `json:"files"`
}

// DiskRecord describes a disk in the opening record.
type DiskRecord struct {
	Key            string        `json:"key"`  // such as scsi0:0
	File           string        `json:"file"` // its descriptor in this stream
	CapacityBytes  int64         `json:"capacity_bytes"`
	AllocatedBytes int64         `json:"allocated_bytes"`       // data runs of the source: an upper bound of what is stored
	TrackBytes     int64         `json:"track_bytes,omitempty"` // size of the blocks whose digests the index has; 0: none
	Adapter        string        `json:"adapter"`
	Geometry       vmdk.Geometry `json:"geometry"`
	Mode           string        `json:"mode,omitempty"`
	CID            string        `json:"cid"`
	ParentCID      string        `json:"parent_cid"`
	ParentFile     string        `json:"parent_file,omitempty"` // parentFileNameHint
	HWVersion      string        `json:"hw_version,omitempty"`
	UUID           string        `json:"uuid,omitempty"`
	DDB            []vmdk.Entry  `json:"ddb,omitempty"` // further entries of the disk data base
	Source         SourceRecord  `json:"source"`

	// Free tells, if the free space of file systems was left out, what was found on the
	// disk. It reads as zeros.
	Free []FreeRecord `json:"free,omitempty"`

	// Mapping tells, if the disk was a raw device mapping, of which LUN.
	Mapping *MappingRecord `json:"mapping,omitempty"`
}

// MappingRecord is a raw device mapping: what the machine had in place of a disk of files.
type MappingRecord struct {
	Mode     string `json:"mode"`             // virtual or physical
	Vendor   string `json:"vendor,omitempty"` // of the LUN, as the mapping has it
	Model    string `json:"model,omitempty"`
	Revision string `json:"revision,omitempty"`
	LUN      uint16 `json:"lun"`          // its number when it was mapped
	IDType   uint8  `json:"id_type"`      // of the id as ESX keeps it
	ID       string `json:"id,omitempty"` // in hexadecimal
}

// FreeRecord is a file system on a disk, or what else is in a partition.
type FreeRecord struct {
	OffsetBytes int64  `json:"offset_bytes"` // on the disk
	SizeBytes   int64  `json:"size_bytes"`   // of the partition or volume
	Name        string `json:"name,omitempty"`
	Kind        string `json:"kind,omitempty"`
	FreeBytes   int64  `json:"free_bytes"`       // that were left out
	Reason      string `json:"reason,omitempty"` // why none were
}

// SourceRecord tells where a disk came from.
type SourceRecord struct {
	Kind string `json:"kind"` // create type, "raw" or "device"
	Path string `json:"path"`
	Name string `json:"name"` // as the configuration has it
	CID  string `json:"cid,omitempty"`
}

// FileRecord describes another file in the opening record.
type FileRecord struct {
	Name      string `json:"name"`
	Kind      string `json:"kind"`
	SizeBytes int64  `json:"size_bytes"` // when the backup began
}

// Sectors returns the capacity in sectors, a last part of one counted whole.
func (d *DiskRecord) Sectors() int64 {
	return (d.CapacityBytes + disk.SectorSize - 1) / disk.SectorSize
}

// extentName returns the name of the extent that starts with the given
// segment, counted from 0.
func (d *DiskRecord) extentName(segment int64) string {
	return fmt.Sprintf("%s-s%06d.vmdk", strings.TrimSuffix(d.File, ".vmdk"), segment+1)
}

// ContentID derives a disk's CID from the backup and the disk, so that it is
// the same whenever the same backup is written.
func ContentID(backupID, key string) uint32 {
	for i := 0; ; i++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "vmstream cid %d\x00%s\x00%s", i, backupID, key))
		cid := uint32(sum[0])<<24 | uint32(sum[1])<<16 | uint32(sum[2])<<8 | uint32(sum[3])
		// These have a meaning of their own in descriptors.
		if cid != 0 && cid != vmdk.NoParent && cid != 0xfffffffe {
			return cid
		}
	}
}

// CIDString writes a CID as descriptors do.
func CIDString(cid uint32) string { return fmt.Sprintf("%08x", cid) }

// extentLine describes an extent that covers n bytes, in a descriptor.
func extentLine(name string, n int64) vmdk.Extent {
	return vmdk.Extent{Access: vmdk.AccessRW, Sectors: n / disk.SectorSize, Type: vmdk.ExtentSparse, Name: name}
}

// descriptor returns the descriptor member of a disk with these extents.
func (d *DiskRecord) descriptor(extents []vmdk.Extent) ([]byte, error) {
	var cid, parent uint32
	if _, err := fmt.Sscanf(d.CID+" "+d.ParentCID, "%08x %08x", &cid, &parent); err != nil {
		return nil, fmt.Errorf("disk %s: content ids %q and %q: %w", d.Key, d.CID, d.ParentCID, err)
	}
	desc := &vmdk.Descriptor{
		Version: 1, Encoding: "UTF-8", CID: cid, ParentCID: parent,
		CreateType: vmdk.TypeTwoGbSparse, ParentFileNameHint: d.ParentFile, Extents: extents,
	}
	add := func(key, value string) {
		if value != "" {
			desc.DDB = append(desc.DDB, vmdk.Entry{Key: key, Value: value})
		}
	}
	add("ddb.virtualHWVersion", d.HWVersion)
	add("ddb.adapterType", d.Adapter)
	add("ddb.geometry.cylinders", fmt.Sprint(d.Geometry.Cylinders))
	add("ddb.geometry.heads", fmt.Sprint(d.Geometry.Heads))
	add("ddb.geometry.sectors", fmt.Sprint(d.Geometry.Sectors))
	add("ddb.uuid", d.UUID)
	add("ddb.longContentID", longContentID(d.CID, d.Key))
	desc.DDB = append(desc.DDB, d.DDB...)
	return desc.Marshal()
}

// longContentID is 24 hex digits and the CID, as VMware products have it.
func longContentID(cid, key string) string {
	sum := sha256.Sum256([]byte("vmstream long content id\x00" + cid + "\x00" + key))
	return fmt.Sprintf("%x%s", sum[:12], cid)
}

// encode returns the member's content.
func (o *Opening) encode() ([]byte, error) { return marshal(o) }

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	err := e.Encode(v)
	return b.Bytes(), err
}

// ParseOpening reads and checks an opening record.
func ParseOpening(b []byte) (*Opening, error) {
	if n := countObjects(b); n > maxOpeningObjects {
		return nil, recordError("opening record", "has %d objects, at most %d are possible", n, maxOpeningObjects)
	}
	o := new(Opening)
	if err := json.Unmarshal(b, o); err != nil {
		return nil, recordError("opening record", "%v", err)
	}
	if o.Format != FormatName {
		return nil, &disk.FormatError{Format: "stream", Field: "opening record", Offset: -1, Err: disk.ErrUnsupported, Detail: fmt.Sprintf("format is %q, this program reads %q", o.Format, FormatName)}
	}
	return o, o.validate()
}

func (o *Opening) validate() error {
	switch {
	case !ValidID(o.ID):
		return recordError("opening record", "id %q", o.ID)
	case o.Depth < 0 || o.Depth > MaxDepth || (o.Depth == 0) != (o.ParentID == "") || o.Depth > 0 && !ValidID(o.ParentID):
		return recordError("opening record", "level %d on parent %q", o.Depth, o.ParentID)
	case o.Depth > 0 && !strings.HasSuffix(o.Name, fmt.Sprintf("+%d", o.Depth)):
		return recordError("opening record", "name %q of an increment of level %d", o.Name, o.Depth)
	case !ValidName(o.Name):
		return recordError("opening record", "name %q is no name for a directory", o.Name)
	case o.ExtentBytes < MinExtentBytes || o.ExtentBytes > MaxExtentBytes || o.ExtentBytes%vmdk.GrainBytes != 0:
		return recordError("opening record", "extent_bytes %d", o.ExtentBytes)
	case len(o.Disks) > maxDisks || len(o.Files) > maxFiles:
		return recordError("opening record", "%d disks and %d files", len(o.Disks), len(o.Files))
	}
	seen := map[string]bool{OpeningName: true, SumsName: true, IndexName: true}
	for _, f := range o.Files {
		if !ValidName(f.Name) || seen[f.Name] || f.SizeBytes < 0 {
			return recordError("opening record", "file %q", f.Name)
		}
		seen[f.Name] = true
	}
	keys := map[string]bool{}
	for i := range o.Disks {
		d := &o.Disks[i]
		if err := d.validate(); err != nil {
			return err
		}
		if d.TrackBytes != 0 && (!ValidTrackBytes(d.TrackBytes) || o.ExtentBytes%d.TrackBytes != 0) {
			return recordError("opening record", "disk %s: track_bytes %d", d.Key, d.TrackBytes)
		}
		if d.Increment() && o.Depth == 0 {
			return recordError("opening record", "disk %s has a parent in a full backup", d.Key)
		}
		if keys[d.Key] || seen[d.File] {
			return recordError("opening record", "disk %q, file %q: named twice", d.Key, d.File)
		}
		keys[d.Key], seen[d.File] = true, true
	}
	return o.noExtentNames(seen)
}

// noExtentNames makes sure that none of the names could be an extent's. There
// may be very many, so disks are looked up by what an extent's name begins with.
func (o *Opening) noExtentNames(names map[string]bool) error {
	disks := map[string]*DiskRecord{}
	for i := range o.Disks {
		disks[o.Disks[i].File] = &o.Disks[i]
	}
	for name := range names {
		i := strings.LastIndex(name, "-s") // digits follow, so it is the last
		if i < 0 {
			continue
		}
		if d := disks[name[:i]+".vmdk"]; d != nil && d.OwnsExtent(name) {
			return recordError("opening record", "disk %s: %q could be an extent of it", d.Key, name)
		}
	}
	return nil
}

// OwnsExtent reports if name is that of an extent of the disk.
func (d *DiskRecord) OwnsExtent(name string) bool {
	digits, ok := strings.CutPrefix(name, strings.TrimSuffix(d.File, ".vmdk")+"-s")
	if !ok {
		return false
	}
	digits, ok = strings.CutSuffix(digits, ".vmdk")
	return ok && digits != "" && strings.Trim(digits, "0123456789") == ""
}

func (d *DiskRecord) validate() error {
	if d.Key == "" || len(d.Key) > 64 || strings.ContainsFunc(d.Key, notPrintable) {
		return recordError("opening record", "disk key %q", d.Key)
	}
	if !ValidName(d.File) || !strings.HasSuffix(d.File, ".vmdk") || len(d.File) > maxNameBytes-16 {
		return recordError("opening record", "disk %s: file %q", d.Key, d.File)
	}
	if d.CapacityBytes <= 0 || d.CapacityBytes > disk.MaxSize || d.AllocatedBytes < 0 {
		return recordError("opening record", "disk %s: capacity %d bytes", d.Key, d.CapacityBytes)
	}
	if !validCID(d.CID) || !validCID(d.ParentCID) || d.Increment() != (d.ParentFile != "") || d.ParentFile != "" && !validParentFile(d.ParentFile) {
		return recordError("opening record", "disk %s: content id %q, that of its parent %q, parent %q", d.Key, d.CID, d.ParentCID, d.ParentFile)
	}
	return nil
}

// Increment reports if what the disk does not have is its parent's.
func (d *DiskRecord) Increment() bool { return d.ParentCID != CIDString(vmdk.NoParent) }

// validParentFile reports if s is «../directory/file.vmdk».
func validParentFile(s string) bool {
	dir, file, ok := strings.Cut(strings.TrimPrefix(s, "../"), "/")
	return ok && strings.HasPrefix(s, "../") && ValidName(dir) && ValidName(file) && strings.HasSuffix(file, ".vmdk")
}

// VMName returns the VM's name: that of the directory without the number of an
// increment.
func (o *Opening) VMName() string {
	if o.Depth == 0 {
		return o.Name
	}
	return strings.TrimSuffix(o.Name, fmt.Sprintf("+%d", o.Depth))
}

// validCID reports if s is a content id as CIDString writes it.
func validCID(s string) bool {
	return len(s) == 8 && strings.Trim(s, "0123456789abcdef") == ""
}

// ValidID reports if id may be the id of a backup: letters, digits and . _ : + -
func ValidID(id string) bool {
	return id != "" && len(id) <= MaxIDBytes && !strings.ContainsFunc(id, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("._:+-", r))
	})
}

// ValidName reports if name may stand for a file or directory of its own: one
// path component, UTF-8, nothing that a shell, a terminal or a file system
// would take for something else.
func ValidName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= maxNameBytes && utf8.ValidString(name) &&
		!strings.ContainsAny(name, "/\\") && fs.ValidPath(name) && !strings.ContainsFunc(name, notPrintable)
}

func notPrintable(r rune) bool {
	return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == utf8.RuneError
}

func recordError(field, format string, args ...any) error {
	return &disk.FormatError{Format: "stream", Field: field, Offset: -1, Err: disk.ErrCorrupt, Detail: fmt.Sprintf(format, args...)}
}
