// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vmdk"
)

// FormatSame restores a disk as the kind of file it was.
const FormatSame vmdk.Format = "same"

// RestoreOptions say where a stream goes.
type RestoreOptions struct {
	Dir         string      // the VM's directory is made in here
	Format      vmdk.Format // FormatSame if empty
	Disks       []string    // keys of the disks to restore; all if empty
	Force       bool        // replace existing files
	IgnoreSpace bool        // do not ask for free space first
	// ForceFor decides for RestoreNext if what is in the directory, the VM's, is
	// replaced by a full backup. It may be nil.
	ForceFor func(o *stream.Opening, dir string) bool
	// Follows says to RestoreNext that a call before has restored what the stream
	// was to be an increment on. If it is a full backup all the same, that is
	// replaced, unless it has been changed.
	Follows bool
	Name    string // new name of the VM and its directory; the old one if empty

	// To takes one disk to a file, a block device, or Stdout for "-". Dir is
	// not used then.
	To           string
	Stdout       io.Writer
	AssumeZeroed bool // a device reads as zeros already

	Volume *Volume // in place of Dir: a directory of a VMFS volume

	Warn func(string)
	Read stream.ReadOptions
}

// Restored is what a restore has made.
type Restored struct {
	Result  *stream.Result // of the last stream
	Streams int            // how many were put together
	Paths   []string       // files with their final names, sorted by disk
	Disks   []RestoredDisk // in Dir
}

// RestoredDisk is a disk in the directory of a restored VM.
type RestoredDisk struct {
	Key  string `json:"key"`
	Path string `json:"path"` // of its descriptor or single file
	Raw  bool   `json:"raw"`
}

// Restore reads a stream from r and puts what it holds in place. Files get
// their final names only when the whole stream has been verified; before, they
// are in a directory of their own, which goes away on any error. A device or
// a pipe has its bytes by then: an error says that they are not to be used.
func Restore(ctx context.Context, r io.Reader, o RestoreOptions) (*Restored, error) {
	return RestoreChain(ctx, []io.Reader{r}, o)
}

// RestoreChain is Restore for a full backup and the increments on it, oldest
// first: the VM is restored as the last one has it.
//
// A single input may have the increments behind the full backup. Then disks are
// written as the full backup has them first, and over that what each increment
// has; see restore_series.go.
func RestoreChain(ctx context.Context, ins []io.Reader, o RestoreOptions) (*Restored, error) {
	if o.Format == "" {
		o.Format = FormatSame
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	o.Stdout = newCancelWriter(ctx, o.Stdout)
	r := &restore{ctx: ctx, opt: o, chain: len(ins) > 1}
	var s restoreSink = r
	if o.Volume != nil {
		s = &volumeRestore{restore: r, v: o.Volume}
	}
	defer s.abort()
	var res *stream.Result
	streams := len(ins)
	if r.chain {
		var err error
		if res, err = stream.ReadChain(ctx, inputs(ctx, ins), s, o.Read); err != nil {
			return nil, err
		}
	} else {
		if len(o.Disks) > 0 {
			o.Read.Part = partOf(ins[0])
		}
		all, err := ReadSeries(ctx, ins[0], s, o.Read)
		if r.lone != nil { // the stream is at fault, not what it is restored to
			return nil, r.lone
		}
		if err != nil {
			return nil, err
		}
		streams, res = len(all), all[len(all)-1]
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	paths, err := s.commit()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", stream.ErrTarget, err)
	}
	return &Restored{Result: res, Paths: paths, Streams: streams, Disks: s.restoredDisks()}, nil
}

// restoreSink is where a restore goes.
type restoreSink interface {
	stream.SeriesSink
	commit() ([]string, error) // completes everything and gives it its final names
	abort()                    // does nothing behind a commit
	restoredDisks() []RestoredDisk
}

// restoredDisks returns the disks in the final directory.
func (s *restore) restoredDisks() []RestoredDisk {
	if s.opt.To != "" {
		return nil
	}
	var all []RestoredDisk
	for _, d := range s.disks {
		if d != nil {
			raw := s.spec(d).Format == vmdk.FormatRaw
			all = append(all, RestoredDisk{Key: d.rec.Key, Path: filepath.Join(s.stage.final, d.name), Raw: raw})
		}
	}
	return all
}

// restore is the sink of a restore.
type restore struct {
	ctx     context.Context // of the run: a sink's methods have none
	opt     RestoreOptions
	opening *stream.Opening
	stage   *stage
	chain   bool            // several streams are put together
	disks   []*restoredDisk // by index in the opening record; nil if not wanted
	config  string          // staged configuration, "" if there is none
	files   []string        // staged files of the VM
	lone    error           // the only stream is an increment
	written bool            // the device may have what a disk of the series had before
	scratch *stage          // raw disks of a series, until all of it has been read
}

type restoredDisk struct {
	rec    *stream.DiskRecord
	w      disk.Writer
	name   string // of the descriptor or single file
	closed bool
	base   string // raw disk in the scratch directory, written over by a series
}

// Begin decides what goes where and checks that there is room.
func (s *restore) Begin(o *stream.Opening) error {
	if err := s.refuseLone(o); err != nil {
		return err
	}
	s.opening = o
	wanted := s.opt.Disks
	if s.opt.To != "" && len(wanted) == 0 && len(o.Disks) == 1 {
		wanted = []string{o.Disks[0].Key}
	}
	if err := s.choose(o, wanted); err != nil {
		return err
	}
	switch {
	case s.opt.To == "":
		for _, d := range s.disks {
			if d != nil {
				s.tellUnmapped(d.rec)
			}
		}
		return s.beginDirectory()
	case s.opt.To == "-" || isDevice(s.opt.To):
		return nil
	}
	return s.beginFile()
}

// refuseLone refuses an increment without what it is on.
func (s *restore) refuseLone(o *stream.Opening) error {
	if o.Depth > 0 && !s.chain {
		s.lone = fmt.Errorf("backup %s is an increment of level %d on %s: name all streams of its chain, the full backup first, each with --from: %w", o.ID, o.Depth, o.ParentID, disk.ErrMismatch)
	}
	return s.lone
}

// choose decides which disks of a stream are restored; none named means all.
func (s *restore) choose(o *stream.Opening, wanted []string) error {
	s.disks = make([]*restoredDisk, len(o.Disks))
	for _, key := range wanted {
		if !slices.ContainsFunc(o.Disks, func(d stream.DiskRecord) bool { return d.Key == key }) {
			return fmt.Errorf("disk %s is not in this stream; it has %s: %w", key, diskKeys(o), fs.ErrNotExist)
		}
	}
	if s.opt.To != "" && len(wanted) != 1 {
		return fmt.Errorf("--to takes one disk; say with --disk which of %s", diskKeys(o))
	}
	for i := range o.Disks {
		if len(wanted) == 0 || slices.Contains(wanted, o.Disks[i].Key) {
			s.disks[i] = &restoredDisk{rec: &o.Disks[i]}
		}
	}
	return nil
}

func diskKeys(o *stream.Opening) string {
	keys := make([]string, len(o.Disks))
	for i := range o.Disks {
		keys[i] = o.Disks[i].Key
	}
	return strings.Join(keys, ", ")
}

// beginDirectory prepares the restore of a VM to opt.Dir.
func (s *restore) beginDirectory() error {
	if err := os.MkdirAll(s.opt.Dir, 0o777); err != nil {
		return err
	}
	name := s.opening.VMName()
	if s.opt.Name != "" {
		name = s.opt.Name
	}
	final := filepath.Join(s.opt.Dir, name)
	if !s.opt.Force {
		if names, err := os.ReadDir(final); err == nil && len(names) > 0 {
			return fmt.Errorf("%s exists and is not empty; --force replaces files in it: %w", final, fs.ErrExist)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return s.begin(s.opt.Dir, final)
}

// beginFile prepares the restore of a disk to a file.
func (s *restore) beginFile() error {
	dir := filepath.Dir(s.opt.To)
	if _, err := os.Lstat(s.opt.To); err == nil && !s.opt.Force {
		return fmt.Errorf("%s exists; --force replaces it: %w", s.opt.To, fs.ErrExist)
	}
	return s.begin(dir, dir)
}

func (s *restore) begin(in, final string) error {
	if err := s.checkSpace(in); err != nil {
		return err
	}
	var err error
	s.stage, err = newStage(in, final, s.opt.Force)
	return err
}

// checkSpace compares what may be written with what is free.
func (s *restore) checkSpace(dir string) error {
	var need int64
	for _, d := range s.disks {
		if d != nil {
			need += min(d.rec.AllocatedBytes, d.rec.CapacityBytes)
		}
	}
	if s.opt.To == "" {
		for _, f := range s.opening.Files {
			need += f.SizeBytes
		}
	}
	if s.opt.IgnoreSpace {
		return nil
	}
	return enoughSpace(dir, need)
}

func enoughSpace(dir string, needBytes int64) error {
	free, ok := disk.FreeBytes(dir)
	if !ok || needBytes <= free {
		return nil
	}
	return fmt.Errorf("%s: the disks may take %d bytes and %d are free; --ignore-space tries it all the same", dir, needBytes, free)
}

// File stages a file of the VM.
func (s *restore) File(f *stream.FileInfo) (io.WriteCloser, error) {
	if s.opt.To != "" {
		return nil, nil
	}
	w, err := s.stage.create(f.Record.Name, fs.FileMode(f.Mode)&0o777)
	if err != nil {
		return nil, err
	}
	s.files = append(s.files, f.Record.Name)
	if f.Record.Kind == string(vm.FileConfig) {
		s.config = f.Record.Name
	}
	return &stagedFile{File: w, modTime: time.Unix(f.Mtime, 0)}, nil
}

// stagedFile is durable and has its time stamp when it is closed.
type stagedFile struct {
	*os.File
	modTime time.Time
}

func (f *stagedFile) Close() error {
	err := f.Sync()
	if cerr := f.File.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Chtimes(f.Name(), f.modTime, f.modTime)
	}
	return err
}

// tellUnmapped warns of a disk that was a raw device mapping and becomes files.
func (s *restore) tellUnmapped(d *stream.DiskRecord) {
	if m := d.Mapping; m != nil {
		s.opt.Warn(fmt.Sprintf("disk %s was a raw device mapping (%s) of the LUN %s %s, id %s: it is restored as a disk of files", d.Key, m.Mode, m.Vendor, m.Model, m.ID))
	}
}

// Disk opens the target of a disk.
func (s *restore) Disk(i int) (disk.Writer, error) {
	d := s.disks[i]
	if d == nil {
		return nil, nil
	}
	if d.w != nil { // of a series: what is there is written over
		return d.w, nil
	}
	var err error
	switch {
	case s.opt.To == "-":
		d.w = disk.NewStreamTarget(s.opt.Stdout, d.rec.CapacityBytes)
	case s.opt.To != "" && isDevice(s.opt.To):
		d.w, err = openDevice(s.opt.To, disk.DeviceOptions{SizeBytes: d.rec.CapacityBytes, AssumeZeroed: s.opt.AssumeZeroed && !s.written})
	default:
		err = s.create(d)
	}
	return d.w, err
}

// create opens a disk in the stage.
func (s *restore) create(d *restoredDisk) error {
	spec := s.spec(d)
	w, err := vmdk.Create(spec)
	if err == nil {
		d.w = w
	}
	return err
}

// commit completes the disks and gives everything its final name.
func (s *restore) commit() ([]string, error) {
	for i, d := range s.disks {
		if d == nil {
			continue
		}
		if d.w == nil { // the stream had no extent of it, which Read would have refused
			return nil, fmt.Errorf("disk %s: nothing was restored", s.opening.Disks[i].Key)
		}
		d.closed = true
		err := d.w.Close()
		if err == nil && d.base != "" {
			err = s.complete(d)
		}
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.rec.Key, err)
		}
	}
	s.removeScratch()
	if s.stage == nil {
		return []string{s.opt.To}, nil
	}
	if s.config != "" {
		if err := s.adjustConfig(); err != nil {
			return nil, err
		}
	}
	return s.stage.commit()
}

// abort removes what has been begun. It does nothing behind a commit.
func (s *restore) abort() {
	for _, d := range s.disks {
		if d != nil && d.w != nil && !d.closed {
			d.w.Abort()
		}
	}
	s.removeScratch()
	if s.stage != nil {
		s.stage.abort()
	}
}

// adjustConfig makes the configuration name the disks as they are called now.
func (s *restore) adjustConfig() error {
	b, err := os.ReadFile(filepath.Join(s.stage.dir, s.config))
	if err != nil {
		return err
	}
	a := &adjustment{disks: map[string]string{}, name: s.opt.Name}
	for _, d := range s.disks {
		if d != nil {
			a.disks[d.rec.Key] = d.name
		}
	}
	edited := a.apply(b, s.config, s.opt.Warn)
	if bytes.Equal(edited, b) {
		return nil
	}
	return s.stage.replace(s.config, edited)
}

func isDevice(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode()&fs.ModeDevice != 0
}
