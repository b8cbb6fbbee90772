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
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
	"github.com/vmstream/vmstream/vmfs"
)

// volumeTarget says how a VM gets onto a VMFS volume.
type volumeTarget struct {
	diskFormat  string
	allowDevice bool
}

func (v *volumeTarget) add(c *cobra.Command) {
	c.Flags().StringVar(&v.diskFormat, "disk-format", string(pipeline.ProvisionSame), "blocks of disks on a VMFS volume: same, thin, zeroedthick, eagerzeroedthick")
	c.Flags().BoolVar(&v.allowDevice, "allow-device", false, "write to a VMFS volume on block devices, too: no host uses it")
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
	case !onVolume && (v.allowDevice || v.diskFormat != string(pipeline.ProvisionSame)):
		return errors.New("--disk-format and --allow-device go with -C vmfs:VOLUME!/DIR")
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
	t, err := openVMFSTarget(names, v.allowDevice, "allow-device")
	if err != nil {
		return nil, err
	}
	w, err := vmfs.OpenWriter(t.devices, vmfs.Options{})
	if err != nil {
		return nil, errors.Join(err, t.close())
	}
	p.Dir, p.Volume = "", &pipeline.Volume{W: w, Dir: dir, Provisioning: pipeline.Provisioning(v.diskFormat)}
	return &openVolume{target: t, w: w}, nil
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
