// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
)

const longAddredo = `Addredo puts a new, empty redo log over a disk of a VM, while the VM is powered off:
what "vmstream redo add" does, in the words of VMware's tool of 2005. CONFIG is a .vmx
or .cfg file. DISK is a device of it, such as scsi0:0, or the name of the disk's file
as the configuration has it, with or without its directory; it may be left out if the
VM has one disk.

  addredo /home/vmware/web01/web01.cfg scsi0:0
  addredo web01.vmx web01.vmdk

In place of CONFIG and DISK a disk alone can be named by the path of its file.`

func newAddredo(a *app) *cobra.Command {
	var f redoFlags
	var classic classicFlags
	c := &cobra.Command{
		Use: "addredo [flags] CONFIG [DISK]", Short: "Put a redo log over a disk, as addredo did",
		Long: longAddredo + "\n\n" + exitCodes,
		RunE: func(c *cobra.Command, args []string) error {
			if done, err := classic.answer(a, c); done {
				return err
			}
			return runAddredo(c, a, &f, args)
		},
	}
	classic.add(c)
	f.addSource(c)
	f.addInUse(c)
	return c
}

func runAddredo(c *cobra.Command, a *app, f *redoFlags, args []string) error {
	switch len(args) {
	case 1:
	case 2:
		if err := f.choose(a, args[0], args[1]); err != nil {
			return err
		}
	default:
		return cli.Usage(errors.New("say which VM, and which of its disks: addredo CONFIG DISK"))
	}
	return runRedoAdd(c.Context(), a, f, args[0])
}

// choose sets the key of the disk of a VM that is named by its key or file.
func (r *redoFlags) choose(a *app, config, name string) error {
	switch strings.ToLower(filepath.Ext(config)) {
	case ".vmx", ".cfg":
	default:
		return cli.Usage(fmt.Errorf("%s: a configuration ends in .vmx or .cfg; a disk is named alone", config))
	}
	disks, err := r.findAll(a, nil, config)
	if err != nil {
		return err
	}
	var keys []string
	for _, d := range disks {
		if strings.EqualFold(name, d.key) || filepath.Base(d.path) == lastComponent(name) {
			r.key = d.key
			return nil
		}
		keys = append(keys, d.key+" ("+filepath.Base(d.path)+")")
	}
	return cli.Source(fmt.Errorf("%s: there is no disk %q; there is %s", config, name, strings.Join(keys, ", ")))
}

// lastComponent returns what of a disk's name stands behind its directories or
// its volume, as in vmhba0:0:0:1:web01.vmdk.
func lastComponent(name string) string {
	return name[strings.LastIndexAny(name, `/\:`)+1:]
}
