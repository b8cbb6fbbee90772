// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
	"github.com/vmstream/vmstream/vmfs"
)

// size reads a size with g, m or k behind it.
func (o *vmkfstools) size(flag, s string) (int64, error) {
	var n cli.Size
	if err := n.Set(s); err != nil || n <= 0 || n > disk.MaxSize {
		return 0, cli.Usage(fmt.Errorf("-%s %s: write a size like 4g, 512m or 64k", flag, s))
	}
	return (int64(n) + disk.SectorSize - 1) / disk.SectorSize * disk.SectorSize, nil
}

// open opens a disk, wherever it is.
func (o *vmkfstools) open(a *app, s string) (*openDisk, string, error) {
	p, err := o.names.find(s)
	if err != nil {
		return nil, "", err
	}
	im, err := (&diskFlags{}).open(a, p.spec())
	return im, p.spec(), err
}

func (o *vmkfstools) doGeometry(_ context.Context, a *app, paths []string) error {
	im, _, err := o.open(a, paths[0])
	if err != nil {
		return err
	}
	defer im.Close() // only read
	g := im.Info().Geometry
	if g.IsZero() {
		g = vmdk.GeometryFor(im.Info().Adapter, im.Size()/disk.SectorSize)
	}
	err = a.printText(func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "Geometry information C/H/S is %v\n", g)
		return err
	})
	if err != nil {
		return err
	}
	return a.done()
}

func (o *vmkfstools) doCommit(ctx context.Context, a *app, paths []string) error {
	p, err := o.names.find(paths[0])
	if err != nil {
		return err
	}
	if p.volume {
		return cli.Source(fmt.Errorf("%s: redo logs are committed where the operating system has the files: %w", paths[0], disk.ErrUnsupported))
	}
	return runRedoCommit(ctx, a, &mergeFlags{}, p.path)
}

func (o *vmkfstools) doExtend(ctx context.Context, a *app, paths []string) error {
	p, err := o.names.find(paths[0])
	if err != nil {
		return err
	}
	if _, err := o.size("X", o.extend); err != nil {
		return err
	}
	x := &diskExtend{allowDevice: o.force, allowFlag: "force"}
	return x.run(ctx, a, p.spec(), o.extend)
}

// doExport writes a disk as vmkfstools did: sparse files below 2 GB, for hosted products.
func (o *vmkfstools) doExport(ctx context.Context, a *app, paths []string) error {
	to, err := o.names.find(o.export)
	if err != nil {
		return err
	}
	if to.volume {
		return cli.Usage(fmt.Errorf("-e %s: export to a file of this machine", o.export))
	}
	format := vmdk.FormatSplit
	if to.path == "-" {
		format = vmdk.FormatStream
	}
	return o.convert(ctx, a, paths[0], to.path, format)
}

// convert copies a disk to a file of this machine.
func (o *vmkfstools) convert(ctx context.Context, a *app, from, to string, format vmdk.Format) error {
	p, err := o.names.find(from)
	if err != nil {
		return err
	}
	at, err := (&volumeFlags{}).locate(a, p.spec())
	if err != nil {
		return err
	}
	defer at.close()
	c := pipeline.ConvertOptions{
		To: to, Format: format, Counters: new(stream.Counters),
		Source: pipeline.SourceOptions{Tree: at.tree, Under: at.under, Warn: a.console.Warn},
	}
	if to == "-" {
		if c.Stdout, err = a.streamOutput(); err != nil {
			return err
		}
	}
	watch := a.console.Watch(c.Counters)
	done, err := pipeline.Convert(ctx, at.paths[0], c)
	took := watch.Stop()
	switch {
	case errors.Is(err, pipeline.ErrSameFile):
		return cli.Usage(err)
	case errors.Is(err, stream.ErrTarget):
		return err
	case err != nil:
		return cli.Source(err)
	}
	reportConvert(a, done, c.Counters, took)
	return a.done()
}

// provisioning is what -d says of a disk on a volume.
func (o *vmkfstools) provisioning() (vmfs.Provisioning, bool) {
	if o.diskFormat == "" {
		return vmfs.ZeroedThick, true
	}
	p, ok := provisionings[strings.ToLower(o.diskFormat)]
	return p, ok
}

// fileFormat is what -d says of a disk in files of this machine.
func (o *vmkfstools) fileFormat() (vmdk.Format, bool) {
	f, ok := map[string]vmdk.Format{
		"": vmdk.FormatVMFS, "thin": vmdk.FormatVMFS, "zeroedthick": vmdk.FormatVMFS, "eagerzeroedthick": vmdk.FormatVMFS,
		"2gbsparse": vmdk.FormatSplit, "monosparse": vmdk.FormatSparse, "raw": vmdk.FormatRaw,
	}[strings.ToLower(o.diskFormat)]
	return f, ok
}

func (o *vmkfstools) doImport(ctx context.Context, a *app, paths []string) error {
	to, err := o.names.find(paths[0])
	if err != nil {
		return err
	}
	if !to.volume {
		format, ok := o.fileFormat()
		if !ok {
			return cli.Usage(fmt.Errorf("-d %s: thin, zeroedthick, eagerzeroedthick, 2gbsparse, monosparse or raw", o.diskFormat))
		}
		return o.convert(ctx, a, o.importFrom, to.path, format)
	}
	im, _, err := o.open(a, o.importFrom)
	if err != nil {
		return err
	}
	defer im.Close() // only read
	return o.onto(ctx, a, &to, im.Disk, im.Info())
}

func (o *vmkfstools) doCreate(ctx context.Context, a *app, paths []string) error {
	size, err := o.size("c", o.create)
	if err != nil {
		return err
	}
	to, err := o.names.find(paths[0])
	if err != nil {
		return err
	}
	if to.volume {
		return o.onto(ctx, a, &to, emptyDisk(size), vmdk.Info{})
	}
	format, ok := o.fileFormat()
	if !ok {
		return cli.Usage(fmt.Errorf("-d %s: thin, zeroedthick, eagerzeroedthick, 2gbsparse, monosparse or raw", o.diskFormat))
	}
	w, err := vmdk.Create(vmdk.CreateSpec{
		Format: format, Dir: filepath.Dir(to.path), Name: filepath.Base(to.path), SizeBytes: size,
		ThinProvisioned: strings.EqualFold(o.diskFormat, "thin"),
	})
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return a.done()
}

// onto makes a disk on a volume: a descriptor and a flat file, or the raw file alone that
// ESX 2 had, if the name does not end in .vmdk.
func (o *vmkfstools) onto(ctx context.Context, a *app, to *vmkPath, im disk.Image, info vmdk.Info) error {
	p, ok := o.provisioning()
	if !ok {
		return cli.Usage(fmt.Errorf("-d %s: on a volume thin, zeroedthick or eagerzeroedthick", o.diskFormat))
	}
	dir, base := path.Split(to.name)
	var text []byte
	if strings.EqualFold(path.Ext(base), ".vmdk") {
		spec := vmdk.CreateSpec{
			Format: vmdk.FormatVMFS, Name: base, SizeBytes: im.Size(), Adapter: info.Adapter, Geometry: info.Geometry,
			HWVersion: info.HWVersion, ThinProvisioned: p == vmfs.Thin,
		}
		var err error
		if base, text, err = vmdk.FlatDescriptor(spec); err != nil {
			return err
		}
	}
	err := to.writer(o.force, func(w *vmfs.Writer) error {
		if text != nil { // the name has to be free before anything is written
			if _, err := w.FS().Lstat(to.name); err == nil {
				return fmt.Errorf("%s: %w", to.name, fs.ErrExist)
			}
		}
		x, err := w.Create(path.Join(dir, base), vmfs.CreateOptions{SizeBytes: im.Size(), Provisioning: p})
		if err != nil {
			return err
		}
		if err := pipeline.CopyInto(ctx, im, x); err != nil || text == nil {
			return err
		}
		return writeOnVolume(w, to.name, text)
	})
	if err != nil {
		return err
	}
	return a.done()
}

// writeOnVolume writes a small file at once.
func writeOnVolume(w *vmfs.Writer, name string, b []byte) error {
	x, err := w.Create(name, vmfs.CreateOptions{SizeBytes: int64(len(b))})
	if err != nil {
		return err
	}
	if _, err := x.WriteAt(b, 0); err != nil {
		x.Abort()
		return err
	}
	return x.Close()
}

// doSwap makes a file of a size, or gives one that size.
func (o *vmkfstools) doSwap(_ context.Context, a *app, paths []string) error {
	size, err := o.size("k", o.swap)
	if err != nil {
		return err
	}
	to, err := o.names.find(paths[0])
	if err != nil {
		return err
	}
	if to.volume {
		err = to.writer(o.force, func(w *vmfs.Writer) error {
			if _, err := w.FS().Lstat(to.name); err == nil {
				return w.Resize(to.name, size, vmfs.ZeroedThick)
			}
			x, err := w.Create(to.name, vmfs.CreateOptions{SizeBytes: size, Provisioning: vmfs.ZeroedThick})
			if err != nil {
				return err
			}
			return x.Close()
		})
	} else {
		var f *os.File
		if f, err = os.OpenFile(to.path, os.O_RDWR|os.O_CREATE, 0o600); err == nil {
			err = errors.Join(f.Truncate(size), f.Sync(), f.Close())
		}
	}
	if err != nil {
		return err
	}
	return a.done()
}

// emptyDisk has so many zeros.
type emptyDisk int64

func (d emptyDisk) Size() int64  { return int64(d) }
func (d emptyDisk) Close() error { return nil }

func (d emptyDisk) ReadAt(p []byte, off int64) (int, error) {
	n := min(int64(len(p)), max(int64(d)-off, 0))
	clear(p[:n])
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (d emptyDisk) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	return func(yield func(disk.Run, error) bool) {
		if n = min(n, int64(d)-off); off >= 0 && n > 0 {
			yield(disk.Run{Offset: off, Length: n, Kind: disk.Zero}, nil)
		}
	}
}
