// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"path"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/remote"
)

// Where the classic tools keep backups if nobody says otherwise.
const (
	defaultLocalDir   = "/vmimages/localbackup"
	defaultArchiveDir = "/vmimages/archivebackup"
)

const longVmsnap = `Vmsnap copies a VM to a directory, as VMware's tool of 2005 did: it lists the disks,
looks at the free space, puts a redo log over each persistent disk, exports what is
below, copies configuration, nvram and logs, and commits the redo logs. With -a it
sends the directory to another host through ssh then.

  vmsnap -c /home/vmware/web01/web01.cfg
  vmsnap -c web01.vmx -d /backup -a backup@vault -R /archive/web01

The backup is the directory of the VM's name in the local directory. It appears when
it is complete, with SHA256SUMS, and takes the place of an earlier backup then. Disks
are exported as twoGbMaxExtentSparse VMDKs, files below 2 GB; with -l each is
one file as large as the disk, a raw one for ESX 2.x. Redo logs that are
there already stay, and what they hold is in the backup; with -r they are committed
first. Only disks of mode persistent are taken.

The VM has to be powered off, unless the tools of its host add the redo logs: with
--exec, and by itself where vmware-cmd is there and says that a VM of ESX 2.x is
running. What is on its disks is as after a power cut then. On stdout are lines for people and scripts: "Disk found",
"Free space" and others.`

type vmsnapOptions struct {
	classicFlags
	server, remoteDir string
	configs           []string
	config            string
	localDir          string
	whole, commit     bool

	exec         string
	stateDir     string
	force        bool
	ignoreSpace  bool
	allowInUse   bool
	allowOutside bool
	padShort     bool
}

func newVmsnap(a *app) *cobra.Command {
	o := &vmsnapOptions{}
	c := &cobra.Command{
		Use: "vmsnap [flags] -c CONFIG", Short: "Copy a VM to a directory, as vmsnap did",
		Long: longVmsnap + "\n\n" + exitCodes, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if done, err := o.answer(a, c); done {
				return err
			}
			return runVmsnap(c.Context(), a, o)
		},
	}
	o.add(c)
	o.addDebug(c)
	f := c.Flags()
	f.StringVarP(&o.server, "server", "a", "", "send the backup to this archive server, as user@host, through ssh")
	f.StringArrayVarP(&o.configs, "config", "c", nil, "configuration of the VM, a .vmx or .cfg file")
	f.StringVarP(&o.localDir, "local-dir", "d", defaultLocalDir, "the backup is made in this directory")
	f.StringVarP(&o.remoteDir, "remote-dir", "R", "", "directory on the archive server that becomes the backup (if empty: "+defaultArchiveDir+" and the name of the VM)")
	f.BoolVarP(&o.whole, "whole", "l", false, "export disks as whole files, not as segments below 2 GB")
	f.BoolVarP(&o.commit, "commit-redo", "r", false, "commit redo logs that are there already before the backup")
	f.StringVar(&o.exec, "exec", "", "add and commit redo logs with the tools of this kind of host, for a VM that is running: esx2 (vmware-cmd), esxi (vim-cmd)")
	addStateDir(c, &o.stateDir)
	f.BoolVar(&o.force, "force", false, "replace a directory that is there although vmsnap did not make it")
	f.BoolVar(&o.ignoreSpace, "ignore-space", false, "begin even if there may be too little free space")
	f.BoolVar(&o.allowInUse, "allow-in-use", false, "take locks for leftovers: nobody uses the VM")
	f.BoolVar(&o.allowOutside, "allow-outside", false, "let a VM have disks outside its directory and /vmfs/volumes, and descriptors name files outside theirs")
	f.BoolVar(&o.padShort, "pad-short", false, "fill up flat files that are too short, and a last part of a sector, with zeros")
	return c
}

func (o *vmsnapOptions) validate() (err error) {
	if o.config, err = atMostOnce("-c", o.configs); err != nil {
		return err
	}
	if err := o.checkExec(); err != nil {
		return err
	}
	switch {
	case o.config == "":
		return cli.Usage(errors.New("say which VM: -c CONFIG"))
	case o.localDir == "":
		return cli.Usage(errors.New("-d: the name of the directory is empty"))
	case o.server == "" && o.remoteDir != "":
		return cli.Usage(errors.New("-R is a directory on the server that -a names"))
	case o.server == "":
		return nil
	}
	err = remote.CheckHost(o.server)
	if o.remoteDir != "" {
		err = errors.Join(err, remote.CheckDir(o.remoteDir))
	}
	if err != nil {
		return cli.Usage(fmt.Errorf("archive server: %w", err))
	}
	return nil
}

// archive returns the directory on the archive server for a VM.
func (o *vmsnapOptions) archive(name string) string {
	if o.remoteDir != "" {
		return o.remoteDir
	}
	return path.Join(defaultArchiveDir, name)
}
