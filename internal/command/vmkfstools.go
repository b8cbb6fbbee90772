// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/vmfs"
)

const longVmkfstools = `Vmkfstools takes the options of the tool of ESX Server that made and managed VMFS volumes
and the disks on them, and works on images, LUNs and files of this machine.

A volume is named by its device or image, as vmfs:DEVICE, or, if --vmfs names it, by its
label: /vmfs/volumes/LABEL, /vmfs/LABEL. A name such as vmhba1:2:0:3 stands for the device that
--map says, or that --vmhba-table knows it by, or else for what host adapter 1 of this machine
has at target 2, LUN 0, partition 3 (0: all of it). A file of a volume is vmfs:DEVICE!/FILE,
LABEL:FILE, vmhba1:2:0:3:FILE or a path below /vmfs. Everything else is a file of this machine.

  vmkfstools -C vmfs5 -S datastore1 volume.img
  vmkfstools -i web01.vmdk vmfs:volume.img!/web01.vmdk -d thin
  vmkfstools --vmfs /dev/sdb -e web01.vmdk datastore1:web01.vmdk
  vmkfstools --vmfs /dev/sdb -l -h /vmfs/datastore1
  vmkfstools -X 20G web01.vmdk
  vmkfstools -L release vmhba1:2:0
  vmkfstools -s vmhba1

What only the kernel of ESX can do, to swap to a file (-w, -y), ends with exit code 8.`

// vmkfstools are the options.
type vmkfstools struct {
	names      vmkNames
	createFS   string
	blockSize  string
	files      int
	label      string
	query      bool
	list       bool
	human      bool
	mappings   bool
	create     string
	diskFormat string
	export     string
	importFrom string
	commit     bool
	mapRaw     string
	passRaw    string
	geometry   bool
	extend     string
	lock       string
	recover    bool
	scan       bool
	swap       string
	activate   bool
	deactivate bool
	force      bool
	dropLog    bool
}

// longNames are other words for options, of ESX 2 or of ESX 3 and newer.
var longNames = map[string]string{
	"querypartitions": "queryfs", "createfile": "createvirtualdisk", "clonevirtualdisk": "importfile", "createrdm": "maprawdisk",
	"extendvirtualdisk": "extendfile", "verbose-mappings": "verbosemappings",
}

func newVmkfstools(a *app) *cobra.Command {
	var o vmkfstools
	c := &cobra.Command{
		Use: "vmkfstools OPTION... PATH", Short: "Manage VMFS volumes and disks, as vmkfstools did",
		Long: longVmkfstools + "\n\n" + exitCodes,
		RunE: func(c *cobra.Command, args []string) error { return o.run(c, a, args) },
	}
	f := c.Flags()
	f.Bool("help", false, "print help") // -h is another option
	f.StringVarP(&o.createFS, "createfs", "C", "", "make an empty volume: vmfs3 or vmfs5")
	f.StringVarP(&o.blockSize, "blocksize", "b", "1M", "with -C: size of file blocks")
	f.IntVarP(&o.files, "numfiles", "n", 0, "with -C: taken and not used, for newer volumes have no such number")
	f.StringVarP(&o.label, "setfsname", "S", "", "give a volume this label; with -C: the new one")
	f.BoolVarP(&o.query, "queryfs", "P", false, "tell what a volume is, or a file of it")
	f.BoolVarP(&o.list, "list", "l", false, "list the files of a volume")
	f.BoolVarP(&o.human, "human-readable", "h", false, "with -l: sizes for people")
	f.BoolVarP(&o.mappings, "verbosemappings", "M", false, "with -l: raw device mappings, with their LUNs")
	f.StringVarP(&o.create, "createvirtualdisk", "c", "", "make an empty disk of this size")
	f.StringVarP(&o.diskFormat, "diskformat", "d", "", "with -c and -i: thin, zeroedthick, eagerzeroedthick; for files of this machine also 2gbsparse, monosparse, raw")
	f.StringVarP(&o.export, "exportfile", "e", "", "write the disk to this file as sparse files below 2 GB; - for stdout")
	f.StringVarP(&o.importFrom, "importfile", "i", "", "make a disk of this one")
	f.BoolVarP(&o.commit, "commit", "m", false, "commit the redo log at the top of a disk")
	f.StringVarP(&o.mapRaw, "maprawdisk", "r", "", "make a raw device mapping of this LUN")
	f.StringVarP(&o.passRaw, "createrdmpassthru", "z", "", "the same, in physical compatibility mode")
	f.BoolVarP(&o.geometry, "geometry", "g", false, "print the geometry of a disk")
	f.StringVarP(&o.extend, "extendfile", "X", "", "make a disk larger: the new size")
	f.StringVarP(&o.lock, "lock", "L", "", "what to do with a LUN: reserve, release, reset (or lunreset), targetreset")
	f.BoolVarP(&o.recover, "recover", "R", false, "free what hosts have left locked that are gone")
	f.BoolVarP(&o.scan, "scan", "s", false, "have an adapter look for new devices, and list what it has")
	f.StringVarP(&o.swap, "createswapfile", "k", "", "make a file of this size, or give it that size")
	f.BoolVarP(&o.activate, "activateswapfile", "w", false, "swap to a file")
	f.BoolVarP(&o.deactivate, "deactivateswapfile", "y", false, "do not swap to it any more")
	f.BoolVar(&o.force, "force", false, "write to block devices; with -C: over what is there; with -L: reset without asking")
	f.BoolVar(&o.dropLog, "drop-journals", false, "with -R: lose what hosts have left in their journals")
	o.names.add(c)
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if other, ok := longNames[name]; ok {
			name = other
		}
		return pflag.NormalizedName(name)
	})
	return c
}

// vmkAction is what one of the options does with the paths behind them.
type vmkAction struct {
	given bool
	do    func(ctx context.Context, a *app, paths []string) error
	paths int // how many; -1: one or more
}

// actions are the options that say what is done; -S is one of them without -C.
func (o *vmkfstools) actions() []vmkAction {
	vmkernel := func(what string) func(context.Context, *app, []string) error {
		return func(context.Context, *app, []string) error {
			return &cli.Error{Code: cli.ExitVMkernel, Err: fmt.Errorf("%s: %w", what, disk.ErrUnsupported)}
		}
	}
	return []vmkAction{
		{o.createFS != "", o.doCreateFS, -1},
		{o.label != "" && o.createFS == "", o.doLabel, 1},
		{o.query, o.doQuery, 1},
		{o.list, o.doList, 1},
		{o.create != "", o.doCreate, 1},
		{o.export != "", o.doExport, 1},
		{o.importFrom != "", o.doImport, 1},
		{o.commit, o.doCommit, 1},
		{o.geometry, o.doGeometry, 1},
		{o.extend != "", o.doExtend, 1},
		{o.recover, o.doRecover, 1},
		{o.swap != "", o.doSwap, 1},
		{o.mapRaw != "" || o.passRaw != "", o.doMapRaw, 1},
		{o.lock != "", o.doLock, 1},
		{o.scan, o.doScan, 1},
		{o.activate || o.deactivate, vmkernel("swapping to a file (-w, -y) is done by the kernel of ESX"), 1},
	}
}

func (o *vmkfstools) run(c *cobra.Command, a *app, args []string) error {
	all := slices.DeleteFunc(o.actions(), func(x vmkAction) bool { return !x.given })
	switch {
	case len(all) != 1:
		return cli.Usage(errors.New("say one thing to be done: one of -C -S -P -l -c -e -i -m -r -z -g -X -L -R -s -k -w -y"))
	case all[0].paths > 0 && len(args) != all[0].paths, len(args) == 0:
		return cli.Usage(errors.New("say what it is to be done with: one path behind the options"))
	}
	return all[0].do(c.Context(), a, args)
}

// doLock does with a LUN what scsi reserve, release and reset do.
func (o *vmkfstools) doLock(ctx context.Context, a *app, paths []string) error {
	l, err := o.names.lun(paths[0])
	if err != nil {
		return err
	}
	r := &scsiReserve{names: o.names.volumes.luns}
	if o.force {
		r.confirm = lunID(l)
	}
	node := l.CommandNode()
	switch strings.ToLower(o.lock) {
	case "reserve":
		return r.run(ctx, a, "reserve", node, r.reserve)
	case "release":
		return r.run(ctx, a, "release", node, r.release)
	case "targetreset":
		r.target = true
		fallthrough
	case "reset", "lunreset":
		return r.runReset(ctx, a, node)
	}
	return cli.Usage(fmt.Errorf("-L %s: reserve, release, reset (or lunreset) or targetreset", o.lock))
}

// doMapRaw makes a raw device mapping.
func (o *vmkfstools) doMapRaw(_ context.Context, a *app, paths []string) error {
	if o.mapRaw != "" && o.passRaw != "" {
		return cli.Usage(errors.New("-r and -z exclude each other"))
	}
	l, err := o.names.lun(cmp.Or(o.mapRaw, o.passRaw))
	if err != nil {
		return err
	}
	to, err := o.names.find(paths[0])
	if err != nil {
		return err
	}
	if !to.volume {
		return cli.Usage(fmt.Errorf("%s: raw device mappings are files of a VMFS volume", paths[0]))
	}
	m := &diskMapRaw{physical: o.passRaw != ""}
	return m.run(a, l, to.name, func(do func(*vmfs.Writer) error) error { return to.writer(o.force, do) })
}

// doScan has an adapter look for devices.
func (o *vmkfstools) doScan(ctx context.Context, a *app, paths []string) error {
	s := &scsiScan{names: o.names.volumes.luns, rescan: true}
	return s.run(ctx, a, paths)
}

func (o *vmkfstools) doCreateFS(ctx context.Context, a *app, paths []string) error {
	m := &vmfsMkfs{blockSize: strings.ToUpper(o.blockSize), label: o.label, force: o.force}
	kinds := map[string]int{"vmfs3": 3, "vmfs5": 5}
	if m.kind = kinds[strings.ToLower(o.createFS)]; m.kind == 0 {
		return cli.Usage(fmt.Errorf("-C %s: vmfs3 and vmfs5 can be made", o.createFS))
	}
	var devices []string
	for _, p := range paths {
		names, err := o.names.devices(p)
		if err != nil {
			return err
		}
		devices = append(devices, names...)
	}
	return runVMFSMkfs(ctx, a, m, devices)
}

func (o *vmkfstools) doLabel(_ context.Context, a *app, paths []string) error {
	names, err := o.names.devices(paths[0])
	if err != nil {
		return err
	}
	v := vmfsWriteFlags{force: o.force}
	if err := v.change(names, func(w *vmfs.Writer) error { return w.SetLabel(o.label) }); err != nil {
		return err
	}
	return a.done()
}

func (o *vmkfstools) doRecover(ctx context.Context, a *app, paths []string) error {
	names, err := o.names.devices(paths[0])
	if err != nil {
		return err
	}
	v := vmfsWriteFlags{force: o.force}
	return runVMFSRecover(ctx, a, &v, vmfs.RecoverOptions{DropJournals: o.dropLog}, strings.Join(names, ","))
}

func (o *vmkfstools) doQuery(ctx context.Context, a *app, paths []string) error {
	p, err := o.names.find(paths[0])
	if err != nil {
		return err
	}
	var v vmfsFlags
	if p.volume && p.name != "." {
		return runVMFSStat(a, &v, p.spec())
	}
	return runVMFSInfo(ctx, a, &v, false, strings.Join(p.devices(), ","))
}

func (o *vmkfstools) doList(_ context.Context, a *app, paths []string) error {
	p, err := o.names.find(paths[0])
	if err != nil {
		return err
	}
	if !p.volume { // a device or an image
		p = vmkPath{volume: true, device: p.path, name: "."}
	}
	v := &vmfsListFlags{long: true, human: o.human, mappings: o.mappings}
	return runVMFSList(a, v, p.spec())
}
