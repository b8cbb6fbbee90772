// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"fmt"
	"os"
	"path"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/vmfs"
)

// vmkNames finds what the names of ESX stand for here.
type vmkNames struct {
	volumes volumeFlags
	maps    map[string]string
}

func (n *vmkNames) add(c *cobra.Command) {
	n.volumes.add(c)
	c.Flags().StringToStringVar(&n.maps, "map", nil, "device that a name stands for, as in vmhba1:2:0:3=/dev/sdb3; may be repeated")
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

// adapterName matches vmhbaA:T:L:P, and a file behind it.
var adapterName = regexp.MustCompile(`^(vmhba\d+:\d+:\d+:\d+)(?::(.+))?$`)

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
	if m := adapterName.FindStringSubmatch(strings.TrimPrefix(s, "/vmfs/")); m != nil {
		device := n.maps[m[1]]
		if device == "" {
			return vmkPath{}, cli.Usage(fmt.Errorf("%s: say with --map %s=DEVICE which device that is", s, m[1]))
		}
		return vmkPath{volume: true, device: device, name: inVolume(m[2])}, nil
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

func inVolume(name string) string { return path.Clean(strings.Trim("./"+name, "/")) }

// labelled finds a volume by its label or UUID among those of --vmfs.
func (n *vmkNames) labelled(s, label, name string) (vmkPath, error) {
	for _, spec := range n.volumes.volumes {
		var flags vmfsFlags
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
