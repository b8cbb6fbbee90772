// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/scsi"
	"github.com/vmstream/vmstream/vmfs"
)

// vmkNames finds what the names of ESX stand for here.
type vmkNames struct {
	volumes volumeFlags
	maps    map[string]string
}

func (n *vmkNames) add(c *cobra.Command) {
	n.volumes.add(c)
	c.Flags().StringToStringVar(&n.maps, "map", nil, "device or image that a name stands for, as in vmhba1:2:0:3=/dev/sdb3; may be repeated")
}

// vmkPath is what a path stands for: a file of this machine, or one of a volume.
type vmkPath struct {
	path   string // of this machine
	volume bool
	device string // all of them, with commas between
	name   string // in the volume, "." for all of it
}

// spec names the file of a volume as the other commands do.
func (p *vmkPath) spec() string {
	if !p.volume {
		return p.path
	}
	return vmfsScheme + p.device + "!/" + strings.TrimPrefix(p.name, ".")
}

// devices are those of the volume, or the file as one.
func (p *vmkPath) devices() []string {
	if !p.volume {
		return strings.Split(p.path, ",")
	}
	return strings.Split(p.device, ",")
}

// find tells what a path stands for.
func (n *vmkNames) find(s string) (vmkPath, error) {
	if strings.HasPrefix(s, vmfsScheme) {
		names, name, _ := splitVMFS(s)
		return vmkPath{volume: true, device: strings.Join(names, ","), name: name}, nil
	}
	tail, below := strings.CutPrefix(s, "/vmfs/volumes/")
	if !below {
		tail, below = strings.CutPrefix(s, "/vmfs/")
	}
	if name, err := scsi.ParseName(s); err == nil {
		device, err := n.device(name)
		return vmkPath{volume: true, device: device, name: inVolume(name.File)}, err
	}
	if label, name, ok := splitDatastore(s); ok {
		return n.labelled(s, label, name)
	}
	if below {
		label, name, _ := strings.Cut(tail, "/")
		return n.labelled(s, label, name)
	}
	if label, name, ok := strings.Cut(s, ":"); ok && len(n.volumes.volumes) > 0 {
		if _, err := os.Lstat(s); err != nil {
			return n.labelled(s, label, name)
		}
	}
	return vmkPath{path: s}, nil
}

// lun returns the LUN that is meant: by a name of ESX, or as scsi info takes it.
func (n *vmkNames) lun(s string) (*scsi.LUN, error) {
	if name, err := scsi.ParseName(s); err == nil {
		device, err := n.device(name.LUNName())
		if err != nil {
			return nil, err
		}
		s = device
	}
	return n.volumes.luns.find(s)
}

// device returns the device that a name of ESX stands for: what --map says, or the LUN
// that has the name, or its partition.
func (n *vmkNames) device(name scsi.Name) (string, error) {
	name.File = ""
	for text, device := range n.maps {
		mapped, err := scsi.ParseName(text)
		if err != nil {
			return "", cli.Usage(fmt.Errorf("--map %w", err))
		}
		if mapped == name {
			return device, nil
		}
	}
	node, err := n.volumes.luns.device(name.String())
	if err != nil {
		return "", &cli.Error{Code: cli.ExitSource, Err: err, Hint: fmt.Sprintf("--map %v=DEVICE says which device that is", name)}
	}
	return node, nil
}

func inVolume(name string) string { return path.Clean(strings.Trim("./"+name, "/")) }

// labelled finds a volume by its label or UUID among those of --vmfs.
func (n *vmkNames) labelled(s, label, name string) (vmkPath, error) {
	for _, spec := range n.volumes.volumes {
		flags := vmfsFlags{luns: n.volumes.luns}
		v, _, err := flags.open(spec)
		if err != nil {
			return vmkPath{}, err
		}
		h := v.Header()
		v.close()
		if label == h.Label || label == h.UUID.String() {
			names, _, _ := splitVMFS(spec)
			return vmkPath{volume: true, device: strings.Join(names, ","), name: inVolume(name)}, nil
		}
	}
	return vmkPath{}, cli.Usage(fmt.Errorf("%s: no volume of --vmfs is called %q", s, label))
}

// devices are those that a volume is on.
func (n *vmkNames) devices(s string) ([]string, error) {
	p, err := n.find(s)
	if err == nil && p.volume && p.name != "." {
		err = cli.Usage(fmt.Errorf("%s: name a volume", s))
	}
	return p.devices(), err
}

// writer opens the volume of a path for writing.
func (p *vmkPath) writer(force bool, do func(*vmfs.Writer) error) error {
	v := vmfsWriteFlags{force: force}
	return v.change(p.devices(), do)
}
