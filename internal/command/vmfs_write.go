// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/internal/writeback"
	"github.com/vmstream/vmstream/vmfs"
)

const longVMFSMkfs = `Mkfs makes an empty volume of VMFS-3 or VMFS-5 on images, or with --force on disks and
partitions: 1 to 32 of them, which are the volume's in this order. No partition table is
made. Make an image with truncate -s first.

  truncate -s 10G volume.img
  vmstream vmfs mkfs --label datastore1 volume.img

What has a volume already, or anything else at its beginning, is refused without --force. A
device of a volume with a heartbeat in use is refused with it, too.

The volumes are made after public descriptions of the format. Independent readers accept
them; no ESX host has been asked if it does.`

type vmfsMkfs struct {
	luns      lunNames
	kind      int
	blockSize string
	label     string
	force     bool
}

func newVMFSMkfs(a *app) *cobra.Command {
	var m vmfsMkfs
	c := &cobra.Command{
		Use: "mkfs [flags] DEVICE...", Short: "Make an empty volume",
		Long: longVMFSMkfs + "\n\n" + exitCodes, Args: cobra.RangeArgs(1, 32),
		RunE: func(c *cobra.Command, args []string) error { return runVMFSMkfs(c.Context(), a, &m, args) },
	}
	m.luns.add(c)
	f := c.Flags()
	f.IntVar(&m.kind, "type", 5, "3 for VMFS-3, 5 for VMFS-5")
	f.StringVar(&m.blockSize, "block-size", "1M", "size of file blocks: 1M, and with VMFS-3 also 2M, 4M or 8M")
	f.StringVar(&m.label, "label", "", "label of the volume")
	f.BoolVar(&m.force, "force", false, "format block devices, and what is not empty")
	return c
}

func runVMFSMkfs(ctx context.Context, a *app, m *vmfsMkfs, names []string) error {
	sizes := map[string]int64{"1M": 1 << 20, "2M": 2 << 20, "4M": 4 << 20, "8M": 8 << 20}
	o := vmfs.FormatOptions{Generation: vmfs.Generation(m.kind), BlockBytes: sizes[m.blockSize], Label: m.label, Force: m.force}
	if m.kind != 3 && m.kind != 5 {
		return cli.Usage(fmt.Errorf("--type %d: VMFS-3 and VMFS-5 can be made", m.kind))
	}
	if o.BlockBytes == 0 {
		return cli.Usage(fmt.Errorf("--block-size %q: 1M, 2M, 4M or 8M", m.blockSize))
	}
	t, err := openVMFSTarget(&m.luns, names, m.force, "force")
	if err != nil {
		return err
	}
	defer t.close()
	o.Images = t.images
	if err := vmfs.Format(ctx, t.devices, o); err != nil {
		return err
	}
	if err := t.close(); err != nil {
		return err
	}
	return a.done()
}

// vmfsTarget are devices that are written.
type vmfsTarget struct {
	devices []vmfs.WriteDevice
	files   []*os.File
	images  bool // all are regular files
}

// openVMFSTarget opens devices for writing; block devices only if it is forced, by the
// flag of this name, and the system does not use them.
func openVMFSTarget(luns *lunNames, names []string, force bool, flag string) (*vmfsTarget, error) {
	names, err := luns.devices(names)
	if err != nil {
		return nil, err
	}
	t := &vmfsTarget{images: true}
	for _, name := range names {
		if err := t.add(name, force, flag); err != nil {
			return nil, errors.Join(err, t.close())
		}
	}
	return t, nil
}

func (t *vmfsTarget) add(name string, force bool, flag string) error {
	st, err := os.Stat(name)
	if err != nil {
		return err
	}
	flags := os.O_RDWR
	switch {
	case st.Mode().IsRegular():
	case st.Mode().Type() != fs.ModeDevice:
		return fmt.Errorf("%s: neither a regular file nor a block device: %w", name, disk.ErrUnsupported)
	case !force:
		return cli.Usage(fmt.Errorf("%s is a block device: say --%s if no host uses it", name, flag))
	default:
		t.images = false
		flags |= syscall.O_EXCL
	}
	f, err := os.OpenFile(name, flags, 0)
	if err != nil {
		return err
	}
	t.files = append(t.files, f)
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	t.devices = append(t.devices, vmfs.WriteDevice{Name: name, RW: writeback.New(f), SizeBytes: size})
	return nil
}

func (t *vmfsTarget) close() error {
	var errs []error
	for _, f := range t.files {
		errs = append(errs, f.Close())
	}
	t.files = nil
	return errors.Join(errs...)
}

// vmfsWriteFlags say how a volume is opened for writing.
type vmfsWriteFlags struct {
	luns   lunNames
	volume string
	force  bool
	flag   string // that says so, if it is not --force
}

// change opens a volume for writing, has it changed, and closes it.
func (v *vmfsWriteFlags) change(names []string, do func(*vmfs.Writer) error) error {
	t, err := openVMFSTarget(&v.luns, names, v.force, cmp.Or(v.flag, "force"))
	if err != nil {
		return err
	}
	defer t.close()
	w, err := vmfs.OpenWriter(t.devices, vmfs.Options{Volume: v.volume})
	if err != nil {
		return err
	}
	if err := do(w); err != nil {
		return errors.Join(err, w.Close())
	}
	return errors.Join(w.Close(), t.close())
}

func newVMFSLabel(a *app) *cobra.Command {
	var v vmfsWriteFlags
	c := &cobra.Command{
		Use: "label [flags] VOLUME LABEL", Short: "Change the label of a volume",
		Long: "Label gives a volume of VMFS-3 or VMFS-5 another label. No host may use the volume: one with a heartbeat in use is refused.\n\n  vmstream vmfs label volume.img datastore2\n\n" + exitCodes,
		Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			names, _, hasPath := splitVMFS(args[0])
			if hasPath {
				return cli.Usage(fmt.Errorf("%q: name a volume", args[0]))
			}
			if err := v.change(names, func(w *vmfs.Writer) error { return w.SetLabel(args[1]) }); err != nil {
				return err
			}
			return a.done()
		},
	}
	v.luns.add(c)
	c.Flags().StringVar(&v.volume, "volume", "", "label or UUID of the volume, if the devices have several")
	c.Flags().BoolVar(&v.force, "force", false, "write to block devices")
	return c
}

// provisionings are the names that vmkfstools has.
var provisionings = map[string]vmfs.Provisioning{"thin": vmfs.Thin, "zeroedthick": vmfs.ZeroedThick, "eagerzeroedthick": vmfs.EagerZeroedThick}

// copyIntoVMFS copies files into a directory of a volume, or one to a new name.
func copyIntoVMFS(ctx context.Context, v *vmfsCopyFlags, sources []string, to string) error {
	names, target, _ := splitVMFS(to)
	p, ok := provisionings[v.diskFormat]
	if !ok {
		return cli.Usage(fmt.Errorf("--disk-format %q: thin, zeroedthick or eagerzeroedthick", v.diskFormat))
	}
	wv := vmfsWriteFlags{luns: v.luns, volume: v.volume, force: v.force}
	return wv.change(names, func(w *vmfs.Writer) error {
		st, err := w.FS().Lstat(target)
		directory := err == nil && st.IsDir()
		if !directory && len(sources) > 1 {
			return cli.Usage(fmt.Errorf("%s is no directory, and there are %d files", to, len(sources)))
		}
		for _, source := range sources {
			name := target
			if directory {
				name = path.Join(target, filepath.Base(source))
			}
			if err := copyFileIntoVMFS(ctx, w, source, name, p); err != nil {
				return err
			}
		}
		return nil
	})
}

func copyFileIntoVMFS(ctx context.Context, w *vmfs.Writer, source, name string, p vmfs.Provisioning) error {
	im, err := disk.OpenRaw(source)
	if err != nil {
		return cli.Source(err)
	}
	defer im.Close() // only read
	x, err := w.Create(name, vmfs.CreateOptions{SizeBytes: im.Size(), Provisioning: p})
	if err != nil {
		return err
	}
	return pipeline.CopyInto(ctx, im, x)
}
