// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/scsi"
	"github.com/vmstream/vmstream/vmdk"
	"github.com/vmstream/vmstream/vmfs"
)

const longDiskMapRaw = `Map-raw makes a raw device mapping: a file on a VMFS volume by which a VM has a LUN for a
disk. LUN is what scsi info takes. PATH is that of a descriptor, beside which the mapping
file comes to lie; if it does not end in .vmdk it is the mapping file alone, as ESX 2.x had
it. The LUN itself is not touched. In virtual mode, the default, a disk has redo logs and
snapshots; in physical mode the guest's commands go to the LUN, and nothing protects it.

  vmstream disk map-raw naa.600140500000000a vmfs:/dev/sdb!/web01/data.vmdk

The LUN is known by its own id in the mapping. No ESX host has been asked if it takes
mappings that are made so.`

// mappedRaw is what disk map-raw prints with --json. docs/scripting.md has it.
type mappedRaw struct {
	Path          string  `json:"path"`
	Mapping       string  `json:"mapping"`
	Node          string  `json:"node"`
	ID            scsi.ID `json:"id,omitempty"`
	Mode          string  `json:"mode"`
	CapacityBytes int64   `json:"capacity_bytes"`
}

type diskMapRaw struct {
	luns        lunNames
	physical    bool
	allowDevice bool
}

func newDiskMapRaw(a *app) *cobra.Command {
	var o diskMapRaw
	c := &cobra.Command{
		Use: "map-raw [flags] LUN PATH", Short: "Make a raw device mapping of a LUN on a VMFS volume",
		Long: longDiskMapRaw + "\n\n" + exitCodes, Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			names, name, hasPath := splitVMFS(args[1])
			if !strings.HasPrefix(args[1], vmfsScheme) || !hasPath {
				return cli.Usage(fmt.Errorf("%s: name a file of a volume, as in vmfs:DEVICE!/web01/data.vmdk", args[1]))
			}
			l, err := o.luns.find(args[0])
			if err != nil {
				return err
			}
			v := vmfsWriteFlags{luns: o.luns, force: o.allowDevice, flag: "allow-device"}
			return o.run(a, l, name, func(do func(*vmfs.Writer) error) error { return v.change(names, do) })
		},
	}
	o.luns.add(c)
	c.Flags().BoolVar(&o.physical, "physical", false, "in physical compatibility mode")
	c.Flags().BoolVar(&o.allowDevice, "allow-device", false, "write to a volume on block devices, too: no host uses it")
	return c
}

// run maps a LUN to a file of the volume that change opens for writing.
func (o *diskMapRaw) run(a *app, l *scsi.LUN, name string, change func(func(*vmfs.Writer) error) error) error {
	id, err := pipeline.DiskIDOf(l)
	if err == nil && (l.Type != scsi.TypeDisk || l.SizeBytes == 0) {
		err = fmt.Errorf("%v: no disk: %w", l.Address, disk.ErrUnsupported)
	}
	if err != nil {
		return cli.Source(err)
	}
	r := &mappedRaw{Path: name, Mapping: name, Node: l.Node, ID: l.ID, Mode: "virtual", CapacityBytes: l.SizeBytes}
	if o.physical {
		r.Mode = "physical"
	}
	var text []byte
	if strings.EqualFold(path.Ext(name), ".vmdk") {
		var mapping string
		spec := vmdk.CreateSpec{Name: path.Base(name), SizeBytes: l.SizeBytes}
		if mapping, text, err = vmdk.MappingDescriptor(spec, o.physical); err != nil {
			return err
		}
		r.Mapping = path.Join(path.Dir(name), mapping)
	}
	err = change(func(w *vmfs.Writer) error {
		if _, err := w.FS().Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, fmt.Errorf("%s: %w", name, fs.ErrExist))
		}
		if err := w.MapDevice(r.Mapping, id, l.SizeBytes); err != nil || text == nil {
			return err
		}
		if err := writeOnVolume(w, name, text); err != nil {
			return errors.Join(err, w.Remove(r.Mapping))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return a.tell(r, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: %s %s, %s, in %s mode\n", r.Path, r.Node, r.ID, cli.Bytes(r.CapacityBytes), r.Mode)
		return err
	})
}
