// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

// maxRuns bounds the pass over the runs that estimates what is allocated.
const maxRuns = 1 << 20

// maxWarningBytes is how much of a warning goes into the index.
const maxWarningBytes = 400

// Write writes a stream of disks and files to w. The same disks, files and
// options give the same bytes whatever Workers and MemoryBytes are.
//
// An error means that what w has got is not a backup, and cannot be mistaken
// for one: its end record is missing. ErrOutput tells trouble with w from
// trouble with a source. Warnings of the result are about files that changed
// while they were read; the stream is whole.
func Write(ctx context.Context, w io.Writer, disks []Disk, files []File, o Options) (*Result, error) {
	if err := o.prepare(); err != nil {
		return nil, err
	}
	sw := &streamWriter{opt: o, disks: disks, files: files}
	if err := sw.open(); err != nil {
		return nil, err
	}
	var err error
	if sw.emit, err = newEmitter(w, &sw.opt, sw.opening.Name); err != nil {
		return nil, err
	}
	return sw.run(ctx)
}

type streamWriter struct {
	opt      Options
	disks    []Disk
	files    []File
	opening  Opening
	emit     *emitter
	slots    []*slot
	totals   []DiskTotals
	tracks   []*DiskTrack
	warnings []string
}

// open fills in the opening record.
func (w *streamWriter) open() error {
	o := &w.opt
	if err := w.chooseExtents(); err != nil {
		return err
	}
	if err := w.checkTracking(); err != nil {
		return err
	}
	w.opening = Opening{
		Format: FormatName, ID: o.ID, Created: o.Created, Tool: o.Tool, Name: o.Name,
		Consistency: o.Consistency, ExtentBytes: o.ExtentBytes,
		Disks: []DiskRecord{}, Files: []FileRecord{},
	}
	if o.Parent != nil {
		if err := w.openOn(o.Parent); err != nil {
			return err
		}
	}
	for i := range w.disks {
		if err := w.openDisk(&w.disks[i]); err != nil {
			return fmt.Errorf("disk %s: %w", w.disks[i].Record.Key, err)
		}
	}
	if o.Parent != nil {
		if err := w.opening.sameOrder(o.Parent); err != nil {
			return err
		}
	}
	for i := range w.files {
		w.opening.Files = append(w.opening.Files, w.files[i].Record)
		o.Counters.Total.Add(w.files[i].Record.SizeBytes)
	}
	return w.opening.validate()
}

func (w *streamWriter) openDisk(d *Disk) error {
	o := &w.opt
	r := &d.Record
	r.CapacityBytes = d.Image.Size()
	r.CID, r.ParentCID, r.ParentFile = CIDString(ContentID(o.ID, r.Key)), CIDString(vmdk.NoParent), ""
	if d.Compare && (d.Was == nil || r.TrackBytes != 0 && r.TrackBytes != d.Was.BlockBytes) {
		return fmt.Errorf("blocks of %d bytes cannot be compared with those of the parent: %w", r.TrackBytes, disk.ErrUnsupported)
	}
	if d.increment() {
		below, err := o.Parent.parentOf(r)
		if err != nil {
			return err
		}
		r.ParentCID, r.ParentFile = below.CID, "../"+o.Parent.Name+"/"+below.File
	}
	var err error
	if r.AllocatedBytes, err = allocated(d.changes(), r.CapacityBytes); err != nil {
		return err
	}
	w.opening.Disks = append(w.opening.Disks, *r)
	o.Counters.Total.Add(r.CapacityBytes)
	return nil
}

// allocated sums up the data runs. Of an image with very many runs the rest
// counts as data.
func allocated(im Changes, size int64) (int64, error) {
	var n int64
	count := 0
	for r, err := range im.Runs(0, size) {
		if err != nil {
			return 0, err
		}
		if count++; count > maxRuns {
			return n + size - r.Offset, nil
		}
		if r.Kind == disk.Data {
			n += r.Length
		}
	}
	return n, nil
}

func (w *streamWriter) run(ctx context.Context) (*Result, error) {
	defer w.releaseSlots()
	if err := w.begin(); err != nil {
		return nil, err
	}
	for i := range w.files {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		if err := w.file(&w.files[i]); err != nil {
			return nil, err
		}
	}
	for i := range w.disks {
		if err := w.disk(ctx, &w.opening.Disks[i], &w.disks[i]); err != nil {
			return nil, err
		}
	}
	if w.opt.Confirm != nil {
		if err := w.opt.Confirm(ctx); err != nil {
			return nil, err
		}
	}
	return w.finish()
}

// begin writes the opening record.
func (w *streamWriter) begin() error {
	b, err := w.opening.encode()
	if err != nil {
		return err
	}
	return w.emit.bytes(OpeningName, fileMode, b)
}

// finish writes the members that prove the stream whole.
func (w *streamWriter) finish() (*Result, error) {
	members := w.emit.members
	if err := w.emit.bytes(SumsName, fileMode, sums(members)); err != nil {
		return nil, err
	}
	last := w.emit.members[len(w.emit.members)-1]
	ix := &Index{
		Format: IndexFormatName, ID: w.opt.ID, Codec: w.opt.Codec.Name, Warnings: w.warnings,
		Opening: &w.opening, Disks: append([]DiskTotals{}, w.totals...), Tracks: w.tracks, Members: w.emit.members, SumsDigest: last.SHA256,
		HeadersDigest: hex.EncodeToString(w.emit.headers.Sum(nil)),
	}
	b, err := encodeIndex(ix, w.emit.tar)
	if err != nil {
		return nil, err
	}
	if err := w.emit.end(b); err != nil {
		return nil, err
	}
	return &Result{
		Opening: &w.opening, Index: ix, Warnings: w.warnings,
		OutBytes: w.emit.out, TarBytes: w.emit.tar, IndexJSON: b,
	}, nil
}

func (w *streamWriter) warn(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	short := s // a reader bounds the index by the number of files
	if len(short) > maxWarningBytes {
		short = strings.ToValidUTF8(short[:maxWarningBytes], "")
	}
	w.warnings = append(w.warnings, short)
	if w.opt.Warn != nil {
		w.opt.Warn(s)
	}
}

// file writes one other file. It has the length that it had when it was
// opened: what is appended meanwhile is left out, what is cut off is zeros,
// and both are told.
func (w *streamWriter) file(f *File) error {
	r, size, err := f.Open()
	if err != nil {
		w.warn("%s: left out: %v", f.Record.Name, err)
		return nil
	}
	defer r.Close()
	m := member{name: w.opening.Name + "/" + f.Record.Name, size: size, mode: f.Mode & 0o777, modTime: f.ModTime.UTC().Truncate(time.Second)}
	h, err := m.encode()
	if err != nil {
		return err
	}
	exact := &exactReader{r: r, left: size}
	if err := w.emit.stream(f.Record.Name, h, size, exact); err != nil {
		return err
	}
	switch {
	case exact.err != nil:
		w.warn("%s: %v; filled up with zeros", f.Record.Name, exact.err)
	case exact.short > 0:
		w.warn("%s: became shorter while it was read; %d bytes at its end are zeros", f.Record.Name, exact.short)
	case exact.more():
		w.warn("%s: grew while it was read; what was added is left out", f.Record.Name)
	}
	w.opt.Counters.Done.Add(f.Record.SizeBytes)
	return nil
}

// exactReader gives exactly left bytes of r, zeros where r has none.
type exactReader struct {
	r     io.Reader
	left  int64
	short int64
	err   error
}

func (e *exactReader) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), e.left)]
	n := 0
	if e.short == 0 && e.err == nil {
		var err error
		n, err = e.r.Read(p)
		if errors.Is(err, io.EOF) {
			e.short = e.left - int64(n)
		} else {
			e.err = err
		}
	}
	if n == 0 {
		clear(p)
		n = len(p)
	}
	e.left -= int64(n)
	return n, nil
}

func (e *exactReader) more() bool {
	var one [1]byte
	n, _ := e.r.Read(one[:])
	return n > 0
}

func (w *streamWriter) releaseSlots() {
	for _, s := range w.slots {
		s.release()
	}
}

func (w *streamWriter) makeSlots() error {
	if w.slots != nil {
		return nil
	}
	// No disk needs room for more than itself.
	extent := int64(MinExtentBytes)
	for i := range w.opening.Disks {
		extent = max(extent, min(w.opt.ExtentBytes, int64(roundUp(int(w.opening.Disks[i].CapacityBytes), vmdk.GrainBytes))))
	}
	n, err := slotCount(w.opt.Workers, w.opt.MemoryBytes, slotBytes(extent, w.opt.Codec))
	if err != nil {
		return err
	}
	for range n {
		s, err := newSlot(extent, w.opt.Codec)
		if err != nil {
			return err
		}
		w.slots = append(w.slots, s)
	}
	return nil
}
