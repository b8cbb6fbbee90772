// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/scsi"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
	"github.com/vmstream/vmstream/vmfs"
)

// volumeTarget says how a VM gets onto a VMFS volume.
type volumeTarget struct {
	diskFormat  string
	allowDevice bool
	mapRaw      map[string]string
	luns        lunNames
}

func (v *volumeTarget) add(c *cobra.Command) {
	c.Flags().StringVar(&v.diskFormat, "disk-format", string(pipeline.ProvisionSame), "blocks of disks on a VMFS volume: same, thin, zeroedthick, eagerzeroedthick")
	c.Flags().BoolVar(&v.allowDevice, "allow-device", false, "write to a VMFS volume on block devices, too: no host uses it")
	c.Flags().StringToStringVar(&v.mapRaw, "map-raw", nil, "write a disk to this LUN, and make a raw device mapping of it on the volume, as in scsi0:1=naa.600140500000000a; may be repeated")
	v.luns.add(c)
	complete(c, "disk-format", provisioningNames())
}

func provisioningNames() []string {
	var names []string
	for _, p := range pipeline.Provisionings() {
		names = append(names, string(p))
	}
	return names
}

func (v *volumeTarget) validate(o *restoreOptions) error {
	onVolume := strings.HasPrefix(o.pipeline.Dir, vmfsScheme)
	switch {
	case strings.HasPrefix(o.pipeline.To, vmfsScheme):
		return errors.New("--to takes a file or a device; restore the VM with -C vmfs:VOLUME!/DIR, or copy the file with vmstream vmfs cp")
	case !slices.Contains(provisioningNames(), v.diskFormat):
		return fmt.Errorf("--disk-format %q: one of %v", v.diskFormat, provisioningNames())
	case !onVolume && (v.allowDevice || len(v.mapRaw) > 0 || v.diskFormat != string(pipeline.ProvisionSame)):
		return errors.New("--disk-format, --map-raw and --allow-device go with -C vmfs:VOLUME!/DIR")
	case onVolume && o.pipeline.Force:
		return errors.New("nothing on a volume is replaced: --force does not go with -C vmfs:VOLUME!/DIR")
	case onVolume && o.format != string(pipeline.FormatSame) && o.format != string(vmdk.FormatVMFS):
		return fmt.Errorf("--format %s: disks on a volume are same or vmfs", o.format)
	}
	return nil
}

// openVolume is a volume that is being written; nil is none.
type openVolume struct {
	target *vmfsTarget
	w      *vmfs.Writer
	closed bool
}

// open opens the volume that -C names, and makes it the target.
func (v *volumeTarget) open(p *pipeline.RestoreOptions) (*openVolume, error) {
	if !strings.HasPrefix(p.Dir, vmfsScheme) {
		return nil, nil
	}
	names, dir, hasPath := splitVMFS(p.Dir)
	if !hasPath {
		return nil, cli.Usage(fmt.Errorf("-C %s: name a directory of the volume, as in %[1]s!/", p.Dir))
	}
	raw, err := v.raw()
	if err != nil {
		return nil, err
	}
	t, err := openVMFSTarget(&v.luns, names, v.allowDevice, "allow-device")
	if err != nil {
		return nil, err
	}
	w, err := vmfs.OpenWriter(t.devices, vmfs.Options{})
	if err != nil {
		return nil, errors.Join(err, t.close())
	}
	p.Dir, p.Volume = "", &pipeline.Volume{W: w, Dir: dir, Provisioning: pipeline.Provisioning(v.diskFormat), Raw: raw}
	return &openVolume{target: t, w: w}, nil
}

// raw finds the LUNs of --map-raw.
func (v *volumeTarget) raw() (map[string]pipeline.RawTarget, error) {
	raw := map[string]pipeline.RawTarget{}
	for key, name := range v.mapRaw {
		l, err := v.luns.find(name)
		if err != nil {
			return nil, err
		}
		id, err := pipeline.DiskIDOf(l)
		if err == nil && (l.Type != scsi.TypeDisk || l.Node == "") {
			err = fmt.Errorf("%s: no disk: %w", name, scsi.ErrNoDevice)
		}
		if err != nil {
			return nil, cli.Usage(fmt.Errorf("--map-raw %s: %w", key, err))
		}
		raw[key] = pipeline.RawTarget{Device: l.Node, SizeBytes: l.SizeBytes, ID: id}
	}
	return raw, nil
}

// finish makes everything durable.
func (o *openVolume) finish() error {
	if o == nil {
		return nil
	}
	o.closed = true
	if err := errors.Join(o.w.Close(), o.target.close()); err != nil {
		return fmt.Errorf("%w: %w", stream.ErrTarget, err)
	}
	return nil
}

// close closes what finish has not.
func (o *openVolume) close() {
	if o != nil && !o.closed {
		_ = o.w.Close() // it has failed already
		_ = o.target.close()
	}
}
