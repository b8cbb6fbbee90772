// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

// That increments follow on one input shows only when the full backup has been
// restored. A device is then written over in place. Other disks are kept as raw
// files in a scratch directory until the end of the last stream, and are then
// made what they are to be: where that has a raw file itself, a new name is all
// it takes; other formats cost a copy before and one behind the increments.

var _ stream.SeriesSink = (*restore)(nil)

// Next makes everything ready for an increment on what has been restored.
func (s *restore) Next(o *stream.Opening) error {
	if s.opt.To == "-" {
		return fmt.Errorf("backup %s, an increment, follows the full one, which has gone to stdout: name each stream with --from to put them together first: %w", o.ID, disk.ErrUnsupported)
	}
	if s.stage != nil && s.scratch == nil {
		var err error
		if s.scratch, err = newStage(filepath.Dir(s.stage.dir), "", false); err != nil {
			return err
		}
	}
	if err := s.dropFiles(); err != nil {
		return err
	}
	old := s.disks
	wanted := s.opt.Disks
	if s.opt.To != "" {
		wanted = wantedKeys(old)
	}
	s.opening = o
	if err := s.choose(o, wanted); err != nil {
		s.disks = old // to be aborted
		return err
	}
	if err := s.seriesSpace(old); err != nil {
		s.disks = append(s.disks, old...)
		return err
	}
	for i, was := range old {
		if was == nil {
			continue
		}
		if err := s.carry(was); err != nil {
			s.disks = append(s.disks, old[i:]...)
			return fmt.Errorf("disk %s: %w", was.rec.Key, err)
		}
	}
	return nil
}

func wantedKeys(disks []*restoredDisk) []string {
	var keys []string
	for _, d := range disks {
		if d != nil {
			keys = append(keys, d.rec.Key)
		}
	}
	return keys
}

// dropFiles removes the VM's files of the stream before: those of the last count.
func (s *restore) dropFiles() error {
	for _, name := range s.files {
		if err := os.Remove(filepath.Join(s.stage.dir, name)); err != nil {
			return err
		}
	}
	s.files, s.config = nil, ""
	return nil
}

// seriesSpace compares what an increment may need with what is free: what it
// stores, and a copy of a disk whose format cannot be written over.
func (s *restore) seriesSpace(old []*restoredDisk) error {
	if s.stage == nil || s.opt.IgnoreSpace {
		return nil
	}
	var need int64
	for _, d := range s.disks {
		if d == nil {
			continue
		}
		need += min(d.rec.AllocatedBytes, d.rec.CapacityBytes)
		for _, was := range old {
			if was != nil && was.rec.Key == d.rec.Key && was.base == "" && !s.spec(was).Format.Adopts() {
				need += min(was.rec.AllocatedBytes, was.rec.CapacityBytes)
			}
		}
	}
	for i := range s.opening.Files {
		need += s.opening.Files[i].SizeBytes
	}
	return enoughSpace(s.stage.dir, need)
}

// carry hands a disk over to the increment, or drops it if that has none or has
// it whole.
func (s *restore) carry(was *restoredDisk) error {
	var d *restoredDisk
	for i := range s.disks {
		if s.disks[i] != nil && s.disks[i].rec.Key == was.rec.Key {
			d = s.disks[i]
		}
	}
	if d == nil || !d.rec.Increment() {
		was.w.Abort()
		was.closed, s.written = true, true
		return nil
	}
	if s.stage == nil || was.base != "" {
		d.w, d.base = was.w, was.base
		was.closed = true // it is d's now
		return nil
	}
	was.closed = true
	if err := was.w.Close(); err != nil {
		return err
	}
	d.base = filepath.Join(s.scratch.dir, fmt.Sprintf("%d.raw", s.bases()))
	if err := s.toRaw(was, d.base); err != nil {
		return err
	}
	w, err := disk.UpdateRaw(d.base, d.rec.CapacityBytes)
	if err != nil {
		return err
	}
	d.w = w
	return nil
}

// bases returns how many raw disks there are in the scratch directory.
func (s *restore) bases() int {
	entries, _ := os.ReadDir(s.scratch.dir) // creating the next one fails if this does
	return len(entries)
}

// toRaw makes a disk that is complete in the stage a raw file, and nothing else.
func (s *restore) toRaw(was *restoredDisk, path string) error {
	files := was.w.(vmdk.Writer).Files()
	spec := s.spec(was)
	if spec.Format.Adopts() {
		if err := os.Rename(filepath.Join(s.stage.dir, files[0]), path); err != nil {
			return err
		}
		return s.removeStaged(files[1:])
	}
	im, err := vmdk.Open(filepath.Join(s.stage.dir, files[len(files)-1]), vmdk.Options{Format: vmdk.SourceVMDK})
	if err != nil {
		return err
	}
	w, err := disk.CreateRaw(path, was.rec.CapacityBytes)
	if err == nil {
		err = s.copyDisk(im, w)
	}
	if err = errors.Join(err, im.Close()); err != nil {
		return err
	}
	return s.removeStaged(files)
}

func (s *restore) removeStaged(names []string) error {
	for _, name := range names {
		if err := os.Remove(filepath.Join(s.stage.dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// copyDisk copies im to w and closes w.
func (s *restore) copyDisk(im disk.Image, w disk.Writer) error {
	c := &copier{im: im, w: w, workers: s.opt.Read.Workers, count: new(stream.Counters)}
	err := c.run(s.ctx)
	if err == nil && s.ctx.Err() != nil {
		err = s.ctx.Err()
	}
	if err != nil {
		w.Abort()
		return err
	}
	return w.Close()
}

// complete makes the disk of a series of its raw file, which is closed.
func (s *restore) complete(d *restoredDisk) error {
	spec := s.spec(d)
	if spec.Format.Adopts() {
		_, err := vmdk.Adopt(spec, d.base)
		return err
	}
	im, err := disk.OpenRaw(d.base)
	if err != nil {
		return err
	}
	if !s.opt.IgnoreSpace {
		if err := enoughSpace(s.stage.dir, allocatedNow(im)); err != nil {
			return errors.Join(err, im.Close())
		}
	}
	w, err := vmdk.Create(spec)
	if err == nil {
		err = s.copyDisk(im, w)
	}
	return errors.Join(err, im.Close(), os.Remove(d.base))
}

// allocatedNow returns the bytes of a raw file that are not holes.
func allocatedNow(im disk.Image) int64 {
	var n int64
	for r, err := range im.Runs(0, im.Size()) {
		if err != nil {
			break // reading it will say so
		}
		if r.Kind == disk.Data {
			n += r.Length
		}
	}
	return n
}

func (s *restore) removeScratch() {
	if s.scratch != nil {
		s.scratch.abort()
	}
}
