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
	"strings"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/sums"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vmdk"
)

// ExportOptions say what directory is made of a source.
type ExportOptions struct {
	Dir string // is made, with its parents

	// Format of the disks. FormatSame is the kind that the disk has, but in one
	// piece: segments become monolithicSparse. FormatProduct is raw disks for a
	// configuration of ESX 2.x, and ESX's own format for segments.
	Format vmdk.Format

	Name        string // new display name; the old one if empty
	KeepNames   bool   // the configuration goes on naming disks by their directories or volumes
	Sums        bool   // SHA256SUMS is made, too
	Replace     bool   // a directory that is there is replaced when the new one is complete
	Force       bool   // existing files are replaced one by one
	IgnoreSpace bool   // do not ask for free space first

	Counters *stream.Counters
	Warn     func(string)
}

// FormatProduct is the format of disks that the product takes whose
// configuration it is.
const FormatProduct vmdk.Format = "product"

// Export writes a source to a directory: its disks as files of a format, the
// other files as they are, the configuration so that it names the disks. The
// directory appears when everything in it is complete. Errors of the target
// have stream.ErrTarget.
func Export(ctx context.Context, src *Source, o ExportOptions) ([]string, error) {
	if o.Counters == nil {
		o.Counters = new(stream.Counters)
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	e := &export{opt: o, src: src, taken: map[string]bool{sums.Name: true}, names: map[string]string{}}
	defer e.abort()
	if err := e.begin(ctx); err != nil {
		return nil, err
	}
	for i := range src.Files {
		if err := e.file(ctx, &src.Files[i]); err != nil {
			return nil, err
		}
	}
	for i := range src.Disks {
		if err := e.disk(ctx, &src.Disks[i]); err != nil {
			return nil, fmt.Errorf("disk %s: %w", src.Disks[i].Record.Key, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := src.Snapshot.Check(ctx); err != nil {
		return nil, err
	}
	return e.commit(ctx)
}

// export is a directory that is being written.
type export struct {
	opt    ExportOptions
	src    *Source
	stage  *stage
	taken  map[string]bool
	names  map[string]string // of disks, by key
	config *stream.File
	w      disk.Writer // of the disk that is being written
}

func (e *export) begin(ctx context.Context) error {
	need, err := Need(ctx, e.src)
	if err != nil {
		return err
	}
	e.opt.Counters.Total.Add(totalBytes(e.src))
	return targetError(e.beginStage(need))
}

// Need returns how many bytes an export of a source may take: what of its disks
// is not known to be zero, and its files.
func Need(ctx context.Context, src *Source) (int64, error) {
	var need int64
	for i := range src.Disks {
		n, _, err := Allocated(ctx, src.Disks[i].Image)
		if err != nil {
			return 0, fmt.Errorf("disk %s: %w", src.Disks[i].Record.Key, err)
		}
		need += n
	}
	for i := range src.Files {
		need += src.Files[i].Record.SizeBytes
	}
	return need, nil
}

func totalBytes(src *Source) (n int64) {
	for i := range src.Disks {
		n += src.Disks[i].Image.Size()
	}
	for i := range src.Files {
		n += src.Files[i].Record.SizeBytes
	}
	return n
}

func (e *export) beginStage(needBytes int64) error {
	parent := filepath.Dir(e.opt.Dir)
	if err := os.MkdirAll(parent, 0o777); err != nil {
		return err
	}
	names, err := os.ReadDir(e.opt.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(names) > 0 && !e.opt.Force && !e.opt.Replace {
		return fmt.Errorf("%s exists and is not empty; --force replaces files in it: %w", e.opt.Dir, fs.ErrExist)
	}
	if !e.opt.IgnoreSpace {
		if err := enoughSpace(parent, needBytes); err != nil {
			return err
		}
	}
	if e.stage, err = newStage(parent, e.opt.Dir, e.opt.Force); err == nil {
		e.stage.swap = e.opt.Replace
	}
	return err
}

// file stages a file. One that cannot be read is left out with a warning.
func (e *export) file(ctx context.Context, f *stream.File) error {
	name := f.Record.Name
	if vm.FileKind(f.Record.Kind) == vm.FileConfig && e.config == nil {
		e.config = f // is written when the names of the disks are known
		e.taken[name] = true
		return nil
	}
	r, size, err := f.Open()
	if err != nil {
		e.opt.Warn(fmt.Sprintf("%s: left out: %v", name, err))
		return nil
	}
	defer r.Close() //nolint:errcheck // only read
	w, err := e.create(f)
	if err != nil {
		return targetError(err)
	}
	in := &readErrors{r: io.LimitReader(&cancelReader{ctx: ctx, r: r}, size)}
	n, err := io.Copy(w, in)
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	e.opt.Counters.Done.Add(n)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case in.err != nil:
		return fmt.Errorf("%s: %w", name, in.err)
	case err != nil:
		return targetError(err)
	case n < size:
		return fmt.Errorf("%s: it has become shorter while it was read: %w", name, disk.ErrTruncated)
	}
	return nil
}

// readErrors notes errors of reading, which are the source's.
type readErrors struct {
	r   io.Reader
	err error
}

func (r *readErrors) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

func (e *export) create(f *stream.File) (*stagedFile, error) {
	e.taken[f.Record.Name] = true
	w, err := e.stage.create(f.Record.Name, fs.FileMode(f.Mode)&0o777)
	if err != nil {
		return nil, err
	}
	t := f.ModTime
	if t.IsZero() {
		t = time.Now()
	}
	return &stagedFile{File: w, modTime: t}, nil
}

// disk writes a disk.
func (e *export) disk(ctx context.Context, d *stream.Disk) error {
	rec := d.Record
	rec.CapacityBytes = d.Image.Size()
	spec := specOf(&rec)
	spec.Dir = e.stage.dir
	spec.Format, spec.Name = e.format(&rec)
	spec.ThinProvisioned = spec.Format == vmdk.FormatVMFS && isThin(&rec)
	w, err := vmdk.Create(spec)
	if err != nil {
		return targetError(err)
	}
	e.w, e.names[rec.Key] = w, spec.Name
	cp := &copier{im: d.Image, w: w, count: e.opt.Counters}
	if err := cp.run(ctx); err != nil {
		return err
	}
	e.w = nil
	if err := w.Close(); err != nil {
		return targetError(err)
	}
	for _, name := range w.Files() {
		e.taken[name] = true
	}
	return nil
}

// format returns the format of a disk and the name of its descriptor or single
// file.
func (e *export) format(rec *stream.DiskRecord) (vmdk.Format, string) {
	format, name := e.opt.Format, rec.File
	switch format {
	case FormatSame:
		format, name = sameFormat(rec)
		if format == vmdk.FormatSplit {
			format = vmdk.FormatSparse
		}
	case FormatProduct:
		format, name = sameFormat(rec)
		switch {
		case e.src.RawDisks:
			format, name = vmdk.FormatRaw, baseName(rec.Source.Name, name)
		case format == vmdk.FormatSplit:
			format = vmdk.FormatVMFS
		}
	case vmdk.FormatRaw:
		name = strings.TrimSuffix(rec.File, ".vmdk") + ".raw"
	}
	if e.taken[name] {
		name = rec.File // no two disks have the same
	}
	return format, name
}

// baseName returns the last component of a name in a configuration, or other if
// that is fit for no file.
func baseName(written, other string) string {
	if name := written[strings.LastIndexAny(written, `/\:`)+1:]; stream.ValidName(name) {
		return name
	}
	return other
}

func (e *export) commit(ctx context.Context) ([]string, error) {
	if err := e.writeConfig(); err != nil {
		return nil, err
	}
	if e.opt.Sums {
		if err := e.writeSums(ctx); err != nil {
			return nil, err
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	paths, err := e.stage.commit()
	return paths, targetError(err)
}

func (e *export) writeConfig() error {
	if e.config == nil {
		return nil
	}
	name := e.config.Record.Name
	r, size, err := e.config.Open()
	if err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(r, min(size, vm.MaxConfigBytes)))
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	a := &adjustment{disks: e.names, keepDirs: e.opt.KeepNames, name: e.opt.Name}
	return targetError(e.write(e.config, a.apply(b, name, e.opt.Warn)))
}

func (e *export) writeSums(ctx context.Context) error {
	b, err := sums.Make(ctx, e.stage.dir)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil {
		err = e.write(&stream.File{Record: stream.FileRecord{Name: sums.Name}, Mode: 0o644}, b)
	}
	return targetError(err)
}

func (e *export) write(f *stream.File, b []byte) error {
	w, err := e.create(f)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	return err
}

// abort removes what has been begun. It does nothing behind a commit.
func (e *export) abort() {
	if e.w != nil {
		e.w.Abort()
	}
	if e.stage != nil {
		e.stage.abort()
	}
}
