// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/internal/readahead"
	"github.com/vmstream/vmstream/internal/vmfsmount"
	"github.com/vmstream/vmstream/vmfs"
)

func newVMFSCat(a *app) *cobra.Command {
	var v vmfsFlags
	c := &cobra.Command{
		Use: "cat [flags] VOLUME!/PATH", Short: "Write a file of a volume to stdout",
		Long: "Cat writes a file to stdout, with zeros for holes and for blocks that ESX has yet to zero.\n\n  vmstream vmfs cat /dev/sdb!/web01/web01.vmx\n\n" + exitCodes,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return runVMFSCat(c.Context(), a, &v, args[0]) },
	}
	v.add(c)
	return c
}

// vmfsFile opens a file of a volume.
func (v *vmfsFlags) file(spec string) (*vmfsVolume, *vmfs.File, string, error) {
	if _, _, ok := splitVMFS(spec); !ok {
		return nil, nil, "", cli.Usage(fmt.Errorf("%q: name a file as VOLUME!/PATH", spec))
	}
	f, name, err := v.open(spec)
	if err != nil {
		return nil, nil, "", err
	}
	file, err := f.OpenFile(name)
	if err != nil {
		f.close()
		return nil, nil, "", cli.Source(err)
	}
	return f, file, name, nil
}

func runVMFSCat(ctx context.Context, a *app, v *vmfsFlags, spec string) error {
	f, file, _, err := v.file(spec)
	if err != nil {
		return err
	}
	defer f.close()
	buf := make([]byte, vmfsCopyBytes)
	var ahead readahead.Window
	for off := int64(0); off < file.Size(); {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		disk.PrefetchNext(&ahead, file, off, file.Size())
		n, err := file.ReadAt(buf, off)
		if err != nil && err != io.EOF {
			return cli.Source(err)
		}
		if _, err := a.Out.Write(buf[:n]); err != nil {
			return asSink(err)
		}
		off += int64(n)
	}
	if err := file.Changed(); err != nil {
		return cli.Source(err)
	}
	return a.done()
}

// vmfsCopyBytes is how much is read at a time: what a processor's cache holds.
const vmfsCopyBytes = 256 << 10

const longVMFSCopy = `Cp copies files out of a volume into a directory, or one file to a name that is not there
yet. Holes stay holes. A file appears under its name when all of it has been copied, and
has not changed meanwhile as far as its descriptor tells.

  vmstream vmfs cp /dev/sdb!/web01/web01.vmdk /dev/sdb!/web01/web01-flat.vmdk /restore

If the last argument names a path of a volume, files are copied into that: a volume of
VMFS-3 or VMFS-5 that no host uses. One with a heartbeat in use is refused.

  vmstream vmfs cp web01-flat.vmdk volume.img!/web01`

type vmfsCopyFlags struct {
	vmfsFlags
	diskFormat string
	force      bool
}

func newVMFSCopy(a *app) *cobra.Command {
	var v vmfsCopyFlags
	c := &cobra.Command{
		Use: "cp [flags] SOURCE... TARGET", Short: "Copy files out of a volume, or into one",
		Long: longVMFSCopy + "\n\n" + exitCodes, Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			last := len(args) - 1
			return runVMFSCopy(c.Context(), a, &v, args[:last], args[last])
		},
	}
	v.add(c)
	c.Flags().StringVar(&v.diskFormat, "disk-format", "thin", "blocks of files in a volume: thin, zeroedthick or eagerzeroedthick")
	c.Flags().BoolVar(&v.force, "force", false, "write to block devices")
	return c
}

func runVMFSCopy(ctx context.Context, a *app, v *vmfsCopyFlags, specs []string, to string) error {
	if _, _, into := splitVMFS(to); into {
		if err := copyIntoVMFS(ctx, v, specs, to); err != nil {
			return err
		}
		return a.done()
	}
	st, err := os.Stat(to)
	directory := err == nil && st.IsDir()
	if !directory && len(specs) > 1 {
		return cli.Usage(fmt.Errorf("%s is no directory, and there are %d files", to, len(specs)))
	}
	for _, spec := range specs {
		target := to
		if directory {
			_, name, _ := splitVMFS(spec)
			target = filepath.Join(to, path.Base(name))
		}
		if err := copyFromVMFS(ctx, &v.vmfsFlags, spec, target); err != nil {
			return err
		}
		a.console.Detail("copied %s to %s", spec, target)
	}
	return a.done()
}

func copyFromVMFS(ctx context.Context, v *vmfsFlags, spec, target string) error {
	f, file, _, err := v.file(spec)
	if err != nil {
		return err
	}
	defer f.close()
	return pipeline.CopyOut(ctx, file, file.Changed, target)
}

func newVMFSStat(a *app) *cobra.Command {
	var v vmfsFlags
	c := &cobra.Command{
		Use: "stat [flags] VOLUME!/PATH", Short: "Tell everything of a file of a volume",
		Long: "Stat prints what a file descriptor says, as one JSON object, with the lock and whether a host that uses the volume holds it.\n\n" + exitCodes,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return runVMFSStat(a, &v, args[0]) },
	}
	v.add(c)
	return c
}

// vmfsStat is what vmfs stat prints. docs/scripting.md has it.
type vmfsStat struct {
	vmfsEntry
	HeldBy string `json:"held_by,omitempty"` // host whose heartbeat is in use
}

func runVMFSStat(a *app, v *vmfsFlags, spec string) error {
	f, name, err := v.open(spec)
	if err != nil {
		return err
	}
	defer f.close()
	fi, err := f.Lstat(name)
	if err != nil {
		return cli.Source(err)
	}
	var s vmfsStat
	if s.vmfsEntry, err = describeVMFSFile(f, name, fi); err != nil {
		return cli.Source(err)
	}
	if s.Lock != nil {
		slots, err := f.Heartbeats()
		if err != nil {
			return cli.Source(err)
		}
		if slot, ok := vmfs.Held(s.Lock, slots); ok {
			s.HeldBy = slot.Owner.String()
		}
	}
	if err := a.printJSON(s); err != nil {
		return err
	}
	return a.done()
}

const longVMFSMap = `Map prints where a file is: offset and length in bytes, data, hole or tbz (blocks that are
there and that ESX has yet to zero: they read as zeros), and of data the device and the
offset in it. No data is read.

  vmstream vmfs map /dev/sdb!/web01/web01-flat.vmdk`

// vmfsExtent is a line of vmfs map with --json. docs/scripting.md has it.
type vmfsExtent struct {
	Offset       int64  `json:"offset"`
	Length       int64  `json:"length"`
	Kind         string `json:"kind"`
	Device       string `json:"device,omitempty"`
	DeviceOffset *int64 `json:"device_offset,omitempty"`
}

func newVMFSMap(a *app) *cobra.Command {
	var v vmfsFlags
	c := &cobra.Command{
		Use: "map [flags] VOLUME!/PATH", Short: "Print where a file of a volume is",
		Long: longVMFSMap + "\n\n" + exitCodes, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return runVMFSMap(c.Context(), a, &v, args[0]) },
	}
	v.add(c)
	return c
}

func runVMFSMap(ctx context.Context, a *app, v *vmfsFlags, spec string) error {
	f, file, _, err := v.file(spec)
	if err != nil {
		return err
	}
	defer f.close()
	out := bufio.NewWriter(a.Out)
	print := func(x *vmfsExtent) error {
		if x.DeviceOffset == nil {
			_, err := fmt.Fprintf(out, "%d\t%d\t%s\n", x.Offset, x.Length, x.Kind)
			return err
		}
		_, err := fmt.Fprintf(out, "%d\t%d\t%s\t%s\t%d\n", x.Offset, x.Length, x.Kind, cli.Clean(x.Device), *x.DeviceOffset)
		return err
	}
	if a.console.JSON {
		e := json.NewEncoder(out)
		print = func(x *vmfsExtent) error { return e.Encode(x) }
	}
	for e, err := range file.Extents(0, file.Size()) {
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			_ = out.Flush() // what came before the trouble; err is what matters
			return cli.Source(err)
		}
		x := &vmfsExtent{Offset: e.Offset, Length: e.Length, Kind: e.Where.String()}
		if e.Where == vmfs.Stored {
			x.Device, x.DeviceOffset = f.devices[e.Device].Name(), &e.At
		}
		if err := print(x); err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return a.done()
}

const longVMFSMount = `Mount mounts a volume read-only at a directory, through FUSE, for programs that take paths:
vmstream's other commands too. It runs until somebody unmounts the directory, or until it is
stopped. Holes show as holes. Whose disks a host has locked, vmfs stat tells: who reads
from a mounted volume does not see it.

  vmstream vmfs mount /dev/sdb /mnt/ds1 &
  vmstream backup --to /backup/ /mnt/ds1/web01/web01.vmx
  umount /mnt/ds1`

func newVMFSMount(a *app) *cobra.Command {
	var v vmfsFlags
	var allowOther bool
	c := &cobra.Command{
		Use: "mount [flags] VOLUME DIRECTORY", Short: "Mount a volume read-only",
		Long: longVMFSMount + "\n\n" + exitCodes, Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			f, _, err := v.open(args[0])
			if err != nil {
				return err
			}
			defer f.close()
			err = vmfsmount.Mount(c.Context(), f.FS, args[1], vmfsmount.Options{
				AllowOther: allowOther, Log: a.console.Log(), Ready: func() { a.console.Detail("%s is mounted at %s", args[0], args[1]) },
			})
			if err != nil {
				return cli.Source(err)
			}
			return a.done()
		},
	}
	v.add(c)
	c.Flags().BoolVar(&allowOther, "allow-other", false, "let other users read, as the modes of the files say")
	return c
}
