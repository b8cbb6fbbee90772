// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/scsi"
	"github.com/vmstream/vmstream/vmfs"
)

// volumeFlags name the VMFS volumes whose files can be named, and the LUNs that raw device
// mappings map.
type volumeFlags struct {
	volumes []string
	rdm     map[string]string
	luns    lunNames
}

func (f *volumeFlags) add(c *cobra.Command) {
	c.Flags().StringToStringVar(&f.rdm, "rdm", nil, "LUN, device or image that a raw device mapping stands for, by the name of the mapping's descriptor or file, as in data.vmdk=/dev/sdc (otherwise the LUN of this machine with the mapping's id); may be repeated")
	f.addVolumes(c)
}

// addVolumes is add for those who need no raw device mapping.
func (f *volumeFlags) addVolumes(c *cobra.Command) {
	f.luns.add(c)
	c.Flags().StringArrayVar(&f.volumes, "vmfs", nil, "VMFS volume on this device or image (all of them, with commas between), whose files are [LABEL] PATH or /vmfs/volumes/LABEL/PATH; may be repeated")
}

// located are paths in the tree that they are in. It has to be closed.
type located struct {
	tree    disk.Tree // nil for the operating system's files
	paths   []string
	under   []string // devices and images that the tree lies in
	volumes []*vmfsVolume
}

func (l *located) close() {
	for _, v := range l.volumes {
		v.close()
	}
}

// locate finds the tree of paths: the operating system's files, or VMFS volumes, those of
// --vmfs and those that the paths name themselves. It has to be one for all.
func (f *volumeFlags) locate(a *app, paths ...string) (*located, error) {
	l := &located{paths: make([]string, len(paths))}
	for i, p := range paths {
		var err error
		if l.paths[i], err = f.resolve(p); err != nil {
			return nil, err
		}
	}
	paths = l.paths
	wanted := len(f.volumes) > 0
	for _, p := range paths {
		wanted = wanted || strings.HasPrefix(p, vmfsScheme)
	}
	m, err := f.mapped(a)
	if err != nil {
		return nil, err
	}
	for _, device := range m.Named {
		l.under = append(l.under, device)
	}
	if !wanted {
		if len(m.Named) > 0 {
			l.tree = m.Tree()
		}
		return l, hintDatastore(paths)
	}
	if err := l.open(a, f, m); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// resolve returns what a path stands for that begins with a name of ESX, such as
// vmhba1:2:0:3:web01/web01.vmx, or is any name of a LUN.
func (f *volumeFlags) resolve(p string) (string, error) {
	if strings.HasPrefix(p, vmfsScheme) {
		return p, nil // whoever opens the volume knows its devices by all of their names
	}
	name, err := scsi.ParseName(p)
	if err != nil || name.File == "" {
		return f.luns.device(p)
	}
	file := name.File
	name.File = ""
	device, err := f.luns.device(name.String())
	return vmfsScheme + device + "!/" + file, err
}

// mapped says how the LUNs of raw device mappings are found.
func (f *volumeFlags) mapped(a *app) (*pipeline.MappedLUNs, error) {
	m := &pipeline.MappedLUNs{Named: map[string]string{}, LUNs: scsi.Sysfs{}.LUNs, Warn: a.console.Warn}
	for name, device := range f.rdm {
		if name == "" || device == "" {
			return nil, cli.Usage(fmt.Errorf("--rdm %s=%s: write the mapping and the device", name, device))
		}
		node, err := f.luns.device(device)
		if err == nil {
			_, err = os.Stat(node)
		}
		if err != nil {
			return nil, cli.Source(fmt.Errorf("--rdm %s: %w", name, err))
		}
		m.Named[name] = node
	}
	return m, nil
}

// vmfsScheme is before VOLUME!/PATH where other paths are possible, too.
const vmfsScheme = "vmfs:"

// hintDatastore tells what is missing where a path of a datastore is not a file.
func hintDatastore(paths []string) error {
	for _, p := range paths {
		if _, _, ok := splitDatastore(p); !ok {
			continue
		}
		if _, err := os.Lstat(p); err != nil {
			return cli.Usage(fmt.Errorf("%s: say with --vmfs on which device this datastore is", p))
		}
	}
	return nil
}

// splitDatastore takes [LABEL] PATH apart.
func splitDatastore(s string) (label, name string, ok bool) {
	if s, ok = strings.CutPrefix(s, "["); !ok {
		return "", "", false
	}
	label, name, ok = strings.Cut(s, "]")
	return label, strings.TrimLeft(name, " "), ok && label != ""
}

// open opens the volumes, those in the paths last, and makes the paths those of the tree.
func (l *located) open(a *app, given *volumeFlags, m *pipeline.MappedLUNs) error {
	opened := map[string]*vmfs.FS{}
	open := func(spec string) (*vmfs.FS, error) {
		devices, _, _ := splitVMFS(spec)
		devices, err := given.luns.devices(devices)
		if err != nil {
			return nil, err
		}
		key := strings.Join(devices, ",")
		if f := opened[key]; f != nil {
			return f, nil
		}
		flags := vmfsFlags{luns: given.luns}
		v, _, err := flags.open(key)
		if err != nil {
			return nil, err
		}
		opened[key], l.volumes = v.FS, append(l.volumes, v)
		l.under = append(l.under, devices...)
		return v.FS, nil
	}
	for _, spec := range given.volumes {
		if _, _, hasPath := splitVMFS(spec); hasPath {
			return cli.Usage(fmt.Errorf("--vmfs %q: name a volume", spec))
		}
		if _, err := open(spec); err != nil {
			return err
		}
	}
	of := make([]*vmfs.FS, len(l.paths))
	for i, p := range l.paths {
		if !strings.HasPrefix(p, vmfsScheme) {
			continue
		}
		if _, _, hasPath := splitVMFS(p); !hasPath {
			return cli.Usage(fmt.Errorf("%q: name a file of the volume, as in %[1]s!/web01/web01.vmx", p))
		}
		var err error
		if of[i], err = open(p); err != nil {
			return err
		}
	}
	var all []*vmfs.FS
	for _, v := range l.volumes {
		all = append(all, v.FS)
	}
	t, err := vmfs.NewTree(all, func(s string) { a.console.Detail("%s", s) })
	if err != nil {
		return cli.Source(err)
	}
	t.MapDevices(m.Open)
	l.tree = t
	paths := make([]string, len(l.paths))
	for i, p := range l.paths {
		if paths[i], err = inTree(t, of[i], p); err != nil {
			return err
		}
	}
	l.paths = paths
	return nil
}

// inTree returns the path in the tree of what somebody has named; of is the volume that
// it names itself.
func inTree(t *vmfs.Tree, of *vmfs.FS, p string) (string, error) {
	if of != nil {
		_, name, _ := splitVMFS(p)
		return t.Path(of, name), nil
	}
	if label, name, ok := splitDatastore(p); ok {
		return path.Join(vmfs.Root, label, name), nil
	}
	if p = path.Clean(p); p == "/vmfs" || strings.HasPrefix(p, "/vmfs/") {
		return p, nil
	}
	return "", cli.Usage(errors.New(p + " is on no volume of --vmfs: write [LABEL] PATH or /vmfs/volumes/LABEL/PATH"))
}
