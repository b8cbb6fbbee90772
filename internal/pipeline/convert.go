// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

// ErrSameFile says that a run would write over what it reads.
var ErrSameFile = errors.New("is read and would be written")

// ConvertOptions say what a disk is converted to.
type ConvertOptions struct {
	Source SourceOptions // how the disk is opened

	// To is a file, a block device, or "-" for Stdout.
	To           string
	Format       vmdk.Format // by the name of To if empty: sparse for .vmdk, else raw
	Stdout       io.Writer
	Force        bool // replace existing files
	IgnoreSpace  bool // do not ask for free space first
	AssumeZeroed bool // a device reads as zeros already

	Workers  int // that read; 0: one more than there are processors
	Counters *stream.Counters
}

// Converted is what a conversion has made.
type Converted struct {
	Format    vmdk.Format
	Paths     []string // files with their final names
	SizeBytes int64    // capacity
}

// Convert copies the content of the disk at path, with its whole chain, to a
// new disk of another format with the same adapter, geometry and disk data
// base. Files get their final names when they are complete. Errors of the
// target have stream.ErrTarget or are ErrSameFile; what else there is comes
// from the source.
func Convert(ctx context.Context, path string, o ConvertOptions) (*Converted, error) {
	if o.Format == "" {
		o.Format = formatForFile(o.To)
	}
	if o.Counters == nil {
		o.Counters = new(stream.Counters)
	}
	src, err := OpenDisk(ctx, path, o.Source)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	c := &conversion{opt: o, rec: src.Disks[0].Record, im: src.Disks[0].Image}
	c.rec.CapacityBytes = c.im.Size()
	defer c.abort()
	if err := c.begin(ctx); err != nil {
		return nil, err
	}
	o.Counters.Total.Add(c.im.Size())
	cp := &copier{im: c.im, w: c.w, workers: o.Workers, count: o.Counters}
	if err := cp.run(ctx); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	paths, err := c.commit()
	if err != nil {
		return nil, targetError(err)
	}
	return &Converted{Format: o.Format, Paths: paths, SizeBytes: c.im.Size()}, nil
}

func targetError(err error) error {
	if err == nil || errors.Is(err, ErrSameFile) {
		return err
	}
	return fmt.Errorf("%w: %w", stream.ErrTarget, err)
}

// conversion is a target that is being written.
type conversion struct {
	opt     ConvertOptions
	rec     stream.DiskRecord
	im      disk.Image
	w       disk.Writer
	stage   *stage
	closed  bool
	inPlace bool // the target takes the place of the source when it is complete
}

func (c *conversion) begin(ctx context.Context) error {
	o := &c.opt
	device := o.To != "-" && isDevice(o.To)
	switch {
	case o.To == "-":
		return targetError(c.beginStdout(ctx))
	case device && o.Format != vmdk.FormatRaw:
		return targetError(fmt.Errorf("%s: a device takes a raw disk, not format %s: %w", o.To, o.Format, disk.ErrUnsupported))
	}
	if err := c.checkSource(o.To); err != nil {
		return err
	}
	if device {
		var err error
		c.w, err = openDevice(o.To, disk.DeviceOptions{SizeBytes: c.im.Size(), AssumeZeroed: o.AssumeZeroed})
		return targetError(err)
	}
	need, _, err := Allocated(ctx, c.im)
	if err != nil {
		return err
	}
	return targetError(c.beginFile(need))
}

// openDevice keeps a nil *DeviceTarget out of the interface.
func openDevice(path string, o disk.DeviceOptions) (disk.Writer, error) {
	t, err := disk.OpenDevice(path, o)
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (c *conversion) beginStdout(ctx context.Context) error {
	out := newCancelWriter(ctx, c.opt.Stdout)
	switch c.opt.Format {
	case vmdk.FormatRaw:
		c.w = disk.NewStreamTarget(out, c.im.Size())
		return nil
	case vmdk.FormatStream:
		w, err := vmdk.CreateStream(out, specOf(&c.rec))
		if err == nil {
			c.w = w
		}
		return err
	}
	return fmt.Errorf("stdout takes format raw or stream, not %s: %w", c.opt.Format, disk.ErrUnsupported)
}

func (c *conversion) beginFile(needBytes int64) error {
	o := &c.opt
	dir := filepath.Dir(o.To)
	if err := c.checkName(filepath.Base(o.To)); err != nil {
		return err
	}
	if !o.IgnoreSpace {
		if err := enoughSpace(dir, needBytes); err != nil {
			return err
		}
	}
	var err error
	if c.stage, err = newStage(dir, dir, o.Force); err != nil {
		return err
	}
	spec := specOf(&c.rec)
	spec.Format, spec.Dir, spec.Name = o.Format, c.stage.dir, filepath.Base(o.To)
	spec.ThinProvisioned = o.Format == vmdk.FormatVMFS && isThin(&c.rec)
	w, err := vmdk.Create(spec)
	if err != nil {
		return err
	}
	c.w = w
	for _, name := range w.Files() {
		if err := c.checkName(name); err != nil {
			return err
		}
	}
	return nil
}

// checkName refuses a final name that is taken before anything is copied.
// --force does not reach as far as files of the source.
func (c *conversion) checkName(name string) error {
	path := filepath.Join(filepath.Dir(c.opt.To), name)
	if err := c.checkSource(path); err != nil {
		return err
	}
	if _, err := os.Lstat(path); err == nil && !c.opt.Force {
		return fmt.Errorf("%s exists; --force replaces it: %w", path, fs.ErrExist)
	}
	return nil
}

// checkSource refuses a target that is a file of the source.
func (c *conversion) checkSource(path string) error {
	d, ok := c.im.(*vmdk.Disk)
	if !ok || c.inPlace {
		return nil
	}
	to, err := os.Stat(path)
	if err != nil {
		return nil // a new file
	}
	for _, name := range slices.Concat(d.Info().Files, c.opt.Source.Under) {
		if st, err := os.Stat(name); err == nil && (os.SameFile(st, to) || sameDevice(st, to)) {
			return fmt.Errorf("%s: %w", name, ErrSameFile)
		}
	}
	return nil
}

func (c *conversion) commit() ([]string, error) {
	c.closed = true
	if err := c.w.Close(); err != nil {
		return nil, err
	}
	if c.stage == nil {
		return []string{c.opt.To}, nil
	}
	return c.stage.commit()
}

// abort removes what has been begun. It does nothing behind a commit.
func (c *conversion) abort() {
	if c.w != nil && !c.closed {
		c.w.Abort()
	}
	if c.stage != nil {
		c.stage.abort()
	}
}

// Allocated returns how many bytes of an image are not known to be zero, and
// in how many runs they lie, by its metadata alone.
func Allocated(ctx context.Context, im disk.Image) (dataBytes, runs int64, err error) {
	for r, err := range im.Runs(0, im.Size()) {
		if err != nil {
			return 0, 0, err
		}
		if ctx.Err() != nil {
			return 0, 0, context.Cause(ctx)
		}
		if r.Kind != disk.Zero {
			dataBytes += r.Length
			runs++
		}
	}
	return dataBytes, runs, nil
}
