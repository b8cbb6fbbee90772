// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/vmfs"
)

const longVMFS = `Vmfs reads VMFS-3, VMFS-5 and VMFS-6 volumes from LUNs, from snapshots that an array has
made of them, and from images, without an ESX host. Nothing is written to volumes but by mkfs,
label, recover, and cp with a volume as its target.

VOLUME is the device, partition or image, or all of them with commas between if the
volume has several, in any order. What is in a volume is named VOLUME!/PATH, as in
/dev/sdb,/dev/sdc!/web01/web01.vmx; vmfs: may stand in front.

Reading is safe for the volume whoever uses it. What comes back may be old or torn if a
host writes at the same time: vmfs info --live tells if one does.`

func newVMFS(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "vmfs", Short: "Look into VMFS volumes, copy from them, make them",
		Long: longVMFS + "\n\n" + exitCodes, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newVMFSInfo(a), newVMFSList(a), newVMFSCat(a), newVMFSCopy(a), newVMFSStat(a), newVMFSMap(a), newVMFSMount(a),
		newVMFSCheck(a), newVMFSMkfs(a), newVMFSLabel(a), newVMFSRecover(a))
	return c
}

// vmfsFlags say how a volume is opened.
type vmfsFlags struct {
	luns         lunNames
	volume       string
	allowMissing bool
}

func (v *vmfsFlags) add(c *cobra.Command) {
	v.luns.add(c)
	c.Flags().StringVar(&v.volume, "volume", "", "label or UUID of the volume, if the devices have several")
	c.Flags().BoolVar(&v.allowMissing, "allow-missing", false, "open a volume of which devices are missing, but not the first")
}

// vmfsVolume is an open volume with its devices.
type vmfsVolume struct {
	*vmfs.FS
	devices []*disk.File
}

func (v *vmfsVolume) close() {
	for _, d := range v.devices {
		_ = d.Close() // only read
	}
}

// splitVMFS splits VOLUME!/PATH. The path is as io/fs has it.
func splitVMFS(spec string) (devices []string, name string, hasPath bool) {
	volume, name, hasPath := strings.Cut(strings.TrimPrefix(spec, "vmfs:"), "!")
	if name = path.Clean(strings.Trim(name, "/")); name == "" {
		name = "."
	}
	return strings.Split(volume, ","), name, hasPath
}

// open opens the volume that spec names. The path in it is the second result.
func (v *vmfsFlags) open(spec string) (*vmfsVolume, string, error) {
	names, name, _ := splitVMFS(spec)
	names, err := v.luns.devices(names)
	if err != nil {
		return nil, "", err
	}
	opened := &vmfsVolume{}
	var devices []vmfs.Device
	for _, n := range names {
		if n == "" {
			opened.close()
			return nil, "", cli.Usage(fmt.Errorf("%q: a device is missing", spec))
		}
		d, err := disk.OpenRaw(n)
		if err != nil {
			opened.close()
			return nil, "", cli.Source(err)
		}
		opened.devices = append(opened.devices, d)
		devices = append(devices, vmfs.Device{Name: n, R: d, SizeBytes: d.Size()})
	}
	if opened.FS, err = vmfs.Open(devices, vmfs.Options{Volume: v.volume, AllowMissing: v.allowMissing}); err != nil {
		opened.close()
		if errors.Is(err, vmfs.ErrMissingDevice) && !v.allowMissing {
			err = &cli.Error{Code: cli.ExitSource, Err: err, Hint: "name all devices, with commas between, or say --allow-missing"}
		}
		return nil, "", cli.Source(err)
	}
	return opened, name, nil
}
