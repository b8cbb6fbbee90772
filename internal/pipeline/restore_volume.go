// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vmdk"
	"github.com/vmstream/vmstream/vmfs"
)

// Volume is a directory of a VMFS volume that a VM is restored to. Disks become flat
// files with a descriptor, as vmkfstools -i makes them, but raw disks of ESX 2.x, which
// stay what they are.
type Volume struct {
	W            *vmfs.Writer
	Dir          string // as io/fs has it
	Provisioning Provisioning

	// Raw are LUNs that get the content of a disk, by its key; the volume gets a raw device
	// mapping of the LUN then. As with every device, what is written to it before an error
	// cannot be taken back.
	Raw map[string]RawTarget
}

// RawTarget is a LUN to be mapped.
type RawTarget struct {
	Device    string
	SizeBytes int64
	ID        *vmfs.DiskID
}

// Provisioning says what blocks a disk on a volume has.
type Provisioning string

// The kinds of vmkfstools. ProvisionSame is thin for a disk that was, and zeroedthick
// for others.
const (
	ProvisionSame        Provisioning = "same"
	ProvisionThin        Provisioning = "thin"
	ProvisionZeroed      Provisioning = "zeroedthick"
	ProvisionEagerZeroed Provisioning = "eagerzeroedthick"
)

// Provisionings returns all kinds.
func Provisionings() []Provisioning {
	return []Provisioning{ProvisionSame, ProvisionThin, ProvisionZeroed, ProvisionEagerZeroed}
}

// volumeRestore is the sink of a restore to a volume. Nothing is in a directory before
// the whole stream has been verified: files appear when they are closed, the
// configuration last.
type volumeRestore struct {
	*restore
	v     *Volume
	final string
	open  []*vmfs.FileWriter // everything that was created and not closed
	items []volumeFile       // files of the VM
}

// volumeFile is a file of the VM with its name.
type volumeFile struct {
	name   string
	config bool
	w      *vmfs.FileWriter // nil for one that is empty, or is kept in b
	b      *bytes.Buffer
	mode   fs.FileMode
	mtime  time.Time
}

var _ stream.SeriesSink = (*volumeRestore)(nil)

// Begin implements stream.Sink.
func (s *volumeRestore) Begin(o *stream.Opening) error {
	if err := s.refuseLone(o); err != nil {
		return err
	}
	s.opening = o
	if err := s.choose(o, s.opt.Disks); err != nil {
		return err
	}
	name := o.VMName()
	if s.opt.Name != "" {
		name = s.opt.Name
	}
	s.final = path.Join(s.v.Dir, name)
	st, err := s.v.W.FS().Lstat(s.v.Dir)
	switch {
	case err != nil:
		return err
	case !st.IsDir():
		return fmt.Errorf("%s is no directory of the volume: %w", s.v.Dir, fs.ErrInvalid)
	}
	if _, err := s.v.W.FS().Lstat(s.final); err == nil {
		return fmt.Errorf("%s is there already: %w", s.final, fs.ErrExist)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.checkRaw(o); err != nil {
		return err
	}
	return s.checkFree()
}

// checkRaw looks at the LUNs that disks go to, and tells of mappings that become files.
func (s *volumeRestore) checkRaw(o *stream.Opening) error {
	for key := range s.v.Raw {
		if !slices.ContainsFunc(s.disks, func(d *restoredDisk) bool { return d != nil && d.rec.Key == key }) {
			return fmt.Errorf("disk %s, which is to go to a LUN, is not restored: %w", key, fs.ErrInvalid)
		}
	}
	for _, d := range s.disks {
		if d == nil {
			continue
		}
		t, raw := s.v.Raw[d.rec.Key]
		switch {
		case raw && t.SizeBytes < d.rec.CapacityBytes:
			return fmt.Errorf("disk %s: %s has %d bytes, the disk %d: %w", d.rec.Key, t.Device, t.SizeBytes, d.rec.CapacityBytes, disk.ErrMismatch)
		case !raw:
			s.tellUnmapped(d.rec)
		}
	}
	return nil
}

// checkFree compares what the disks may take with what is free.
func (s *volumeRestore) checkFree() error {
	if s.opt.IgnoreSpace {
		return nil
	}
	var need int64
	for _, d := range s.disks {
		switch {
		case d == nil || s.raw(d) != nil:
		case s.provisioning(d) == vmfs.Thin:
			need += min(d.rec.AllocatedBytes, d.rec.CapacityBytes)
		default:
			need += d.rec.CapacityBytes
		}
	}
	free, err := s.v.W.FreeBytes()
	if err != nil || need <= free {
		return err
	}
	return fmt.Errorf("the volume has %d bytes free and the disks may take %d; --ignore-space tries it all the same: %w", free, need, vmfs.ErrFull)
}

func (s *volumeRestore) provisioning(d *restoredDisk) vmfs.Provisioning {
	switch s.v.Provisioning {
	case ProvisionThin:
		return vmfs.Thin
	case ProvisionEagerZeroed:
		return vmfs.EagerZeroedThick
	case ProvisionZeroed:
		return vmfs.ZeroedThick
	}
	if isThin(d.rec) {
		return vmfs.Thin
	}
	return vmfs.ZeroedThick
}

// spec says what a disk becomes on the volume.
func (s *volumeRestore) spec(d *restoredDisk) vmdk.CreateSpec {
	spec := specOf(d.rec)
	spec.Format = vmdk.FormatVMFS
	if s.raw(d) != nil {
		d.name = spec.Name
		return spec
	}
	if format, name := sameFormat(d.rec); format == vmdk.FormatRaw && d.rec.Source.Kind != vmdk.KindDevice && s.opt.Format != vmdk.FormatVMFS {
		spec.Format, spec.Name = format, name
	}
	spec.ThinProvisioned = spec.Format == vmdk.FormatVMFS && s.provisioning(d) == vmfs.Thin
	d.name = spec.Name
	return spec
}

// create creates a file that is going to be called name in the directory of the VM.
func (s *volumeRestore) create(name string, o vmfs.CreateOptions) (*vmfs.FileWriter, error) {
	// The directory of the VM is not there yet. This name is never seen.
	w, err := s.v.W.Create(path.Join(s.v.Dir, ".vmstream-"+rand.Text()), o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	w.SetName(path.Join(s.final, name))
	s.open = append(s.open, w)
	return w, nil
}

// File implements stream.Sink. A configuration is kept in memory, for it has to name the
// disks as they are called then.
func (s *volumeRestore) File(f *stream.FileInfo) (io.WriteCloser, error) {
	item := volumeFile{name: f.Record.Name, config: f.Record.Kind == string(vm.FileConfig), mode: fs.FileMode(f.Mode) & 0o777, mtime: time.Unix(f.Mtime, 0)}
	if item.config && f.Size <= vm.MaxConfigBytes {
		item.b = new(bytes.Buffer)
		s.items = append(s.items, item)
		return struct {
			io.Writer
			io.Closer
		}{item.b, io.NopCloser(nil)}, nil
	}
	w, err := s.create(item.name, vmfs.CreateOptions{SizeBytes: f.Size, Mode: item.mode | 0o600, Modified: item.mtime})
	if err != nil {
		return nil, err
	}
	item.w = w
	s.items = append(s.items, item)
	return &volumeWriter{w: w}, nil
}

// volumeWriter writes a file from its beginning. Closing it has the file wait.
type volumeWriter struct {
	w   *vmfs.FileWriter
	off int64
}

func (v *volumeWriter) Write(p []byte) (int, error) {
	n, err := v.w.WriteAt(p, v.off)
	v.off += int64(n)
	return n, err
}

func (v *volumeWriter) Close() error { return nil }

// Disk implements stream.Sink.
func (s *volumeRestore) Disk(i int) (disk.Writer, error) {
	d := s.disks[i]
	if d == nil {
		return nil, nil
	}
	if d.w != nil {
		return d.w, nil
	}
	if t := s.raw(d); t != nil {
		w, err := openDevice(t.Device, disk.DeviceOptions{SizeBytes: d.rec.CapacityBytes})
		if err != nil {
			return nil, err
		}
		d.w = w
		return w, nil
	}
	spec := s.spec(d)
	name, size := spec.Name, spec.SizeBytes
	if spec.Format != vmdk.FormatRaw {
		flat, _, err := vmdk.FlatDescriptor(spec)
		if err != nil {
			return nil, err
		}
		name, size = flat, (size+disk.SectorSize-1)/disk.SectorSize*disk.SectorSize
	}
	w, err := s.create(name, vmfs.CreateOptions{SizeBytes: size, Provisioning: s.provisioning(d)})
	if err != nil {
		return nil, err
	}
	d.w = w
	return w, nil
}

// Next implements stream.SeriesSink: increments are written over what is there.
func (s *volumeRestore) Next(o *stream.Opening) error {
	for _, item := range s.items { // those of the last stream count
		if item.w != nil {
			item.w.Abort()
		}
	}
	s.items = nil
	old := s.disks
	s.opening = o
	if err := s.choose(o, s.opt.Disks); err != nil {
		return err
	}
	for _, was := range old {
		if was == nil {
			continue
		}
		kept := false
		for _, d := range s.disks {
			if d != nil && d.rec.Key == was.rec.Key && d.rec.Increment() {
				d.w, kept = was.w, true
			}
		}
		if !kept {
			was.w.Abort()
		}
	}
	return nil
}

// commit makes the directory and has everything appear in it: what others depend on
// first, so that there is no VM before all of it is there.
func (s *volumeRestore) commit() ([]string, error) {
	if err := s.v.W.Mkdir(s.final, 0o755); err != nil {
		return nil, err
	}
	paths, err := s.appear()
	if err != nil {
		return nil, errors.Join(err, s.removeFinal())
	}
	return paths, nil
}

func (s *volumeRestore) appear() (paths []string, err error) {
	for i, d := range s.disks {
		if d == nil {
			continue
		}
		if d.w == nil { // the stream had no extent of it, which Read would have refused
			return nil, fmt.Errorf("disk %s: nothing was restored", s.opening.Disks[i].Key)
		}
		d.closed = true
		if err := d.w.Close(); err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.rec.Key, err)
		}
	}
	adjust := &adjustment{disks: map[string]string{}, name: s.opt.Name}
	for _, d := range s.disks {
		if d == nil {
			continue
		}
		spec := s.spec(d)
		adjust.disks[d.rec.Key] = d.name
		paths = append(paths, path.Join(s.final, d.name))
		if spec.Format == vmdk.FormatRaw {
			continue
		}
		text, err := s.descriptor(d, spec)
		if err == nil {
			err = s.whole(d.name, text, vmfs.CreateOptions{})
		}
		if err != nil {
			return nil, err
		}
	}
	for _, config := range []bool{false, true} {
		for i := range s.items {
			if item := &s.items[i]; item.config == config {
				if err := s.finish(item, adjust); err != nil {
					return nil, err
				}
				paths = append(paths, path.Join(s.final, item.name))
			}
		}
	}
	return paths, nil
}

// raw returns the LUN that a disk goes to, nil for a file.
func (s *volumeRestore) raw(d *restoredDisk) *RawTarget {
	if t, ok := s.v.Raw[d.rec.Key]; ok {
		return &t
	}
	return nil
}

// descriptor makes the descriptor of a disk, and the mapping if it is on a LUN.
func (s *volumeRestore) descriptor(d *restoredDisk, spec vmdk.CreateSpec) ([]byte, error) {
	t := s.raw(d)
	if t == nil {
		_, text, err := vmdk.FlatDescriptor(spec)
		return text, err
	}
	spec.SizeBytes, spec.ThinProvisioned = t.SizeBytes, false
	if t.SizeBytes != d.rec.CapacityBytes {
		spec.Geometry = vmdk.Geometry{}
	}
	mapping, text, err := vmdk.MappingDescriptor(spec, d.rec.Mapping != nil && d.rec.Mapping.Mode == mappedPhysical)
	if err != nil {
		return nil, err
	}
	return text, s.v.W.MapDevice(path.Join(s.final, mapping), t.ID, t.SizeBytes)
}

// finish has a file of the VM appear.
func (s *volumeRestore) finish(item *volumeFile, adjust *adjustment) error {
	if item.w != nil {
		return item.w.Close()
	}
	return s.whole(item.name, adjust.apply(item.b.Bytes(), item.name, s.opt.Warn), vmfs.CreateOptions{Mode: item.mode | 0o600, Modified: item.mtime})
}

// whole writes a file at once.
func (s *volumeRestore) whole(name string, content []byte, o vmfs.CreateOptions) error {
	o.SizeBytes = int64(len(content))
	w, err := s.create(name, o)
	if err != nil {
		return err
	}
	if _, err := w.WriteAt(content, 0); err != nil {
		w.Abort()
		return err
	}
	return w.Close()
}

// removeFinal removes what has appeared of a restore that has failed.
func (s *volumeRestore) removeFinal() error {
	entries, err := s.v.W.FS().ReadDir(s.final)
	for _, e := range entries {
		err = errors.Join(err, s.v.W.Remove(path.Join(s.final, e.Name())))
	}
	return errors.Join(err, s.v.W.Remove(s.final))
}

// abort drops what has been begun. It does nothing behind a commit.
func (s *volumeRestore) abort() {
	for _, w := range s.open {
		w.Abort()
	}
	for _, d := range s.disks {
		if d != nil && d.w != nil && !d.closed && s.raw(d) != nil {
			d.w.Abort()
		}
	}
}

// restoredDisks returns the disks by their paths in the volume.
func (s *volumeRestore) restoredDisks() []RestoredDisk {
	var all []RestoredDisk
	for _, d := range s.disks {
		if d != nil {
			all = append(all, RestoredDisk{Key: d.rec.Key, Path: path.Join(s.final, d.name), Raw: s.spec(d).Format == vmdk.FormatRaw})
		}
	}
	return all
}
