// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/integrate"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vm/snapshot"
)

// integrations are the subcommands of integrate, one for each kind of software.
var integrations = []func(*app) *cobra.Command{newIntegrateBacula, newIntegrateAmanda, newIntegrateNetBackup, newIntegrateNetWorker}

const longIntegrate = `Integrate writes what backup software needs to back a VM up with vmstream:
configuration and scripts. It changes nothing of the software's own; the files are
to be looked at, and included or copied as their first lines say.`

func newIntegrate(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "integrate", Short: "Write configuration and scripts for backup software",
		Long: longIntegrate + "\n\n" + exitCodes, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	for _, n := range integrations {
		c.AddCommand(n(a))
	}
	return c
}

// integration is what all subcommands have.
type integration struct {
	setup integrate.Setup
	dir   string
	force bool
}

func (o *integration) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.dir, "dir", "", "write the files to this directory, which is made if it does not exist (the current one if empty)")
	f.BoolVar(&o.force, "force", false, "replace existing files")
	f.StringVar(&o.setup.Name, "name", "", "name of the job (that of the VM if empty)")
	f.StringVar(&o.setup.Program, "program", "", "where vmstream is on the client (as it was called now if empty)")
}

// integrateResult is what integrate prints with --json. docs/scripting.md has it.
type integrateResult struct {
	Paths []string `json:"paths"`
}

// run makes the files of VM and options, which follow it.
func (o *integration) run(a *app, args []string, files func(integrate.Setup) ([]integrate.File, error)) error {
	s := &o.setup
	var err error
	if s.Source, err = filepath.Abs(args[0]); err != nil {
		return err
	}
	s.Options = args[1:]
	if s.Name == "" {
		s.Name = vm.SafeName(strings.TrimSuffix(filepath.Base(s.Source), filepath.Ext(s.Source)))
	}
	if s.Program == "" {
		if s.Program, err = os.Executable(); err != nil {
			return fmt.Errorf("%w; say --program", err)
		}
	}
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return err
	}
	if s.Dir == "" {
		s.Dir = o.dir
	}
	if s.RestoreTo == "" {
		s.RestoreTo = "/var/lib/vmstream/restored"
	}
	made, err := files(*s)
	if err != nil {
		return cli.Usage(err)
	}
	paths, err := integrate.WriteFiles(o.dir, made, o.force)
	if errors.Is(err, fs.ErrExist) {
		return &cli.Error{Code: cli.ExitFailed, Err: err, Hint: "--force replaces it"}
	}
	if err != nil {
		return err
	}
	if a.console.JSON {
		return a.printJSON(integrateResult{Paths: paths})
	}
	for _, p := range paths {
		if _, err := fmt.Fprintln(a.Out, cli.Clean(p)); err != nil {
			return err
		}
	}
	return nil
}

const longIntegrateBacula = `Integrate bacula writes a FileSet and jobs for the director, and the two scripts that
Bacula's bpipe plugin runs on the client. Levels are Bacula's: increments hold what has
changed since the last job that is stored. A job whose stream is not whole fails.
BACKUP-ARGUMENTS are those of vmstream backup.

  vmstream integrate bacula --dir /etc/vmstream --client web-fd --storage File \
      --pool Full /vms/web01/web01.vmx -- --codec zstd --exec esxi`

func newIntegrateBacula(a *app) *cobra.Command {
	o := &integration{}
	c := &cobra.Command{
		Use: "bacula [flags] VM|DISK [-- BACKUP-ARGUMENTS]", Short: "Write jobs and scripts for Bacula or Bareos",
		Long: longIntegrateBacula + "\n\n" + exitCodes, Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return o.run(a, args, integrate.Bacula) },
	}
	o.add(c)
	f := c.Flags()
	s := &o.setup
	f.StringVar(&s.Dir, "client-dir", "", "directory of the scripts on the client (that of --dir if empty)")
	f.StringVar(&s.StateDir, "state-dir", snapshot.DefaultStateDir, "where jobs and snapshots are noted, on the client")
	f.StringVar(&s.RestoreTo, "restore-to", "", "where restore jobs put VMs unless they say otherwise (/var/lib/vmstream/restored if empty)")
	f.StringVar(&s.Client, "client", "", "name of the client in the director's configuration")
	f.StringVar(&s.Storage, "storage", "File", "name of the storage there")
	f.StringVar(&s.Pool, "pool", "Default", "name of the pool there")
	f.StringVar(&s.Messages, "messages", "Standard", "name of the messages there")
	f.StringVar(&s.Schedule, "schedule", "", "name of the schedule there (none if empty)")
	f.BoolVar(&s.Bareos, "bareos", false, "write the FileSet for Bareos")
	return c
}

const longIntegrateAmanda = `Integrate amanda writes a definition of an application and a dumptype for Amanda, and
the application amvmstream, which calls vmstream. Levels are Amanda's: those above 0
hold what has changed since the last dump of a lower level. BACKUP-ARGUMENTS are those
of vmstream backup.

  vmstream integrate amanda --dir /tmp/amanda /vms/web01/web01.vmx -- --codec=zstd`

func newIntegrateAmanda(a *app) *cobra.Command {
	o := &integration{}
	c := &cobra.Command{
		Use: "amanda [flags] VM|DISK [-- BACKUP-ARGUMENTS]", Short: "Write an application and a dumptype for Amanda",
		Long: longIntegrateAmanda + "\n\n" + exitCodes, Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return o.run(a, args, integrate.Amanda) },
	}
	o.add(c)
	c.Flags().StringVar(&o.setup.StateDir, "state-dir", amandaStateDir, "where dumps and snapshots are noted, on the client; its user has to be allowed to write to it")
	c.Flags().StringVar(&o.setup.Auth, "auth", "bsdtcp", "how the server reaches the client: bsdtcp, ssh, local and the like")
	return c
}

const longIntegrateNetBackup = `Integrate netbackup writes the two scripts that NetBackup runs around the job of a policy:
the first starts the backup, which the job reads from a named pipe, the second fails
the job if the backup has failed. BACKUP-ARGUMENTS are those of vmstream backup. This has
not been tried with NetBackup itself.

  vmstream integrate netbackup --dir /var/lib/vmstream/netbackup web01.vmx -- --exec esxi`

func newIntegrateNetBackup(a *app) *cobra.Command {
	o := &integration{}
	c := &cobra.Command{
		Use: "netbackup [flags] VM|DISK [-- BACKUP-ARGUMENTS]", Short: "Write the scripts around a job of NetBackup",
		Long: longIntegrateNetBackup + "\n\n" + exitCodes, Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return o.run(a, args, integrate.NetBackup) },
	}
	o.add(c)
	f := c.Flags()
	f.StringVar(&o.setup.Dir, "client-dir", "", "directory of the named pipe on the client (that of --dir if empty)")
	f.StringVar(&o.setup.StateDir, "state-dir", snapshot.DefaultStateDir, "where the scripts note how a backup has ended, on the client")
	return c
}

const longIntegrateNetWorker = `Integrate networker writes the commands that NetWorker runs before and behind a save,
and the file that tells it of them. The first makes the stream, as a file: NetWorker
saves no pipes. BACKUP-ARGUMENTS are those of vmstream backup. This has not been tried with
NetWorker itself.

  vmstream integrate networker --dir /staging /vms/web01/web01.vmx -- --codec zstd`

func newIntegrateNetWorker(a *app) *cobra.Command {
	o := &integration{}
	c := &cobra.Command{
		Use: "networker [flags] VM|DISK [-- BACKUP-ARGUMENTS]", Short: "Write the commands around a save of NetWorker",
		Long: longIntegrateNetWorker + "\n\n" + exitCodes, Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return o.run(a, args, integrate.NetWorker) },
	}
	o.add(c)
	c.Flags().StringVar(&o.setup.Dir, "client-dir", "", "directory of the commands and the stream on the client (that of --dir if empty)")
	return c
}
