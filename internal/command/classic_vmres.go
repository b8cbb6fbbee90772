// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/internal/remote"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

const longVmres = `Vmres restores a VM from a backup that vmsnap has made, or from a stream, to the
directory that -C names, where it makes the VM's own directory. BACKUP is the name of
a backup in the local directory, a path, or - for a stream on stdin; without
BACKUP, -d names the backup itself. With -a the backup is fetched from another host
through ssh first.

  vmres -C /vmfs/volumes/ds1 web01
  vmres -C /vms -n web01-test /backup/web01
  vmres -C /vms -a backup@vault -R /archive/web01
  vmres -C /vms - < web01.tar

If the backup has SHA256SUMS everything is compared with it before anything is
restored. Disks become raw ones for a configuration of ESX 2.x, and ESX's own format
if they are segments; others keep their format. They lie beside the configuration,
which names them there. The VM's directory appears when it is complete.

With --register a command is run then by /bin/sh, to tell the product of the VM: a
hook, with the path of the configuration in VMSTREAM_HOOK_PATH and the VM's name in
VMSTREAM_HOOK_VM. "--register vmware-cmd" stands for

  vmware-cmd -s register "$VMSTREAM_HOOK_PATH"

If it fails that is a warning: the VM is restored.`

type vmresOptions struct {
	classicFlags
	server, remoteDir string
	configs           []string
	config            string
	localDir          string
	target, name      string
	whole             bool
	format            string
	sourceFormat      string
	register          string
	force             bool
	ignoreSpace       bool

	backup string // path, "-", or the directory on the server
}

// formatProduct is the default of --format.
const formatProduct = string(pipeline.FormatProduct)

func newVmres(a *app) *cobra.Command {
	o := &vmresOptions{}
	c := &cobra.Command{
		Use: "vmres [flags] -C DIR [BACKUP]", Short: "Restore a VM from what vmsnap has made, as vmres did",
		Long: longVmres + "\n\n" + exitCodes,
		RunE: func(c *cobra.Command, args []string) error {
			if done, err := o.answer(a, c); done {
				return err
			}
			if err := o.validate(args, c.Flags().Changed("local-dir")); err != nil {
				return cli.Usage(err)
			}
			return runVmres(c.Context(), a, o)
		},
	}
	o.add(c)
	o.addDebug(c)
	f := c.Flags()
	f.StringVarP(&o.server, "server", "a", "", "fetch the backup from this archive server, as user@host, through ssh")
	f.StringArrayVarP(&o.configs, "config", "c", nil, "configuration in the backup (needed if there are several)")
	f.StringVarP(&o.localDir, "local-dir", "d", defaultLocalDir, "directory that BACKUP is in, or the backup itself without BACKUP")
	f.StringVarP(&o.remoteDir, "remote-dir", "R", "", "directory of the backup on the archive server (if empty: "+defaultArchiveDir+" and BACKUP)")
	f.StringVarP(&o.target, "directory", "C", "", "make the VM's directory in here")
	f.StringVarP(&o.name, "name", "n", "", "new name of the VM")
	f.BoolVarP(&o.whole, "whole", "l", false, "the disks are whole files, as of vmsnap -l: for ESX 2.x the same as --source-format raw (found out without it)")
	f.StringVar(&o.format, "format", formatProduct, "make disks into: product, "+strings.Join(restoreFormats(), ", "))
	f.StringVar(&o.register, "register", "", "run this command when the VM is restored, or vmware-cmd")
	f.BoolVar(&o.force, "force", false, "replace existing files")
	f.BoolVar(&o.ignoreSpace, "ignore-space", false, "begin even if there may be too little free space")
	addSourceFormat(c, &o.sourceFormat)
	complete(c, "format", append([]string{formatProduct}, restoreFormats()...))
	return c
}

func (o *vmresOptions) validate(args []string, localGiven bool) (err error) {
	if o.config, err = atMostOnce("-c", o.configs); err != nil {
		return err
	}
	if err := checkSourceFormat(o.sourceFormat); err != nil {
		return err
	}
	switch {
	case o.whole && o.sourceFormat == string(vmdk.SourceVMDK):
		return errors.New("-l says that disks of ESX 2.x are raw, --source-format vmdk that they are not")
	case o.target == "":
		return errors.New("say where to restore to: -C DIR")
	case len(args) > 1:
		return fmt.Errorf("one backup at a time, not %s and %s", args[0], args[1])
	case o.name != "" && !stream.ValidName(o.name):
		return fmt.Errorf("%q is no name for a directory", o.name)
	case o.format != formatProduct && !slices.Contains(restoreFormats(), o.format):
		return fmt.Errorf("--format %q: product or one of %v", o.format, restoreFormats())
	case o.config != "" && filepath.Base(o.config) != o.config:
		return fmt.Errorf("-c %s: the name of a file in the backup, without directories", o.config)
	case o.server != "":
		return o.findRemote(args, localGiven)
	case o.remoteDir != "":
		return errors.New("-R is a directory on the server that -a names")
	}
	return o.findLocal(args, localGiven)
}

func (o *vmresOptions) findLocal(args []string, localGiven bool) error {
	switch {
	case len(args) == 0 && !localGiven:
		return errors.New("say which backup: its name, its path, or - for a stream on stdin")
	case len(args) == 0:
		o.backup = o.localDir
	case args[0] == "-" || strings.ContainsRune(args[0], filepath.Separator):
		o.backup = args[0]
	default:
		o.backup = filepath.Join(o.localDir, args[0])
		if _, err := os.Lstat(o.backup); err == nil || localGiven {
			return nil
		}
		if _, err := os.Lstat(args[0]); err == nil {
			o.backup = args[0]
		}
	}
	return nil
}

func (o *vmresOptions) findRemote(args []string, localGiven bool) error {
	if localGiven {
		return errors.New("-d is for a backup on this host, -a for one on another")
	}
	switch o.backup = o.remoteDir; {
	case o.backup != "" && len(args) > 0:
		return fmt.Errorf("-R and %s both name the backup", args[0])
	case o.backup == "" && len(args) == 0:
		return errors.New("say which backup: its name, or -R DIR")
	case o.backup == "" && strings.Contains(args[0], "/"):
		return fmt.Errorf("%s: name a directory on the server with -R", args[0])
	case o.backup == "":
		o.backup = path.Join(defaultArchiveDir, args[0])
	}
	return errors.Join(remote.CheckHost(o.server), remote.CheckDir(o.backup))
}
