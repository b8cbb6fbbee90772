// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vmdk"
	"github.com/vmstream/vmstream/vmfs"
)

const longList = `List prints the VMs under the directories, or under the current one: those with a
.vmx, or a .cfg of ESX 1.x and GSX. Symbolic links below them are not followed.
A VM that cannot be backed up as it is stands in the list too, with the reason.

  vmstream list /vmfs/volumes/ds1
  vmstream list --vmfs /dev/sdb
  vmstream list --json /vmfs/volumes | jq -r 'select(.error == null) | .path'`

type listOptions struct {
	volumes      volumeFlags
	depth        int
	allowOutside bool
}

func newList(a *app) *cobra.Command {
	o := &listOptions{}
	c := &cobra.Command{
		Use: "list [flags] [DIR...]", Short: "List the VMs that can be backed up",
		Long: longList + "\n\n" + exitCodes, Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error { return runList(c.Context(), a, o, args) },
	}
	o.volumes.add(c)
	c.Flags().IntVar(&o.depth, "depth", 8, "levels of directories that are searched below DIR, 0 for none")
	c.Flags().BoolVar(&o.allowOutside, "allow-outside", false, "let descriptors name files outside their directory, and devices")
	return c
}

func runList(ctx context.Context, a *app, o *listOptions, dirs []string) error {
	if o.depth < 0 {
		return cli.Usage(fmt.Errorf("--depth %d: 0 or more", o.depth))
	}
	switch {
	case len(dirs) > 0:
	case len(o.volumes.volumes) > 0:
		dirs = []string{vmfs.Root}
	default:
		dirs = []string{"."}
	}
	at, err := o.volumes.locate(a, dirs...)
	if err != nil {
		return err
	}
	defer at.close()
	dirs, tree := at.paths, disk.TreeOr(at.tree)
	if err := checkDirectories(tree, dirs); err != nil {
		return cli.Source(err)
	}
	opt := vm.ListOptions{MaxDepth: o.depth, Capacity: func(path string) (int64, error) { return capacity(tree, path, o.allowOutside) }}
	opt.Tree = tree
	if o.depth == 0 {
		opt.MaxDepth = -1
	}
	var found []vm.Summary // what a table needs before its columns are known
	for s, err := range vm.List(ctx, dirs, opt) {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			a.console.Warn(err.Error())
			continue
		}
		a.warnOf(&s)
		if !a.console.JSON {
			found = append(found, s)
		} else if err := a.printJSON(&s); err != nil {
			return err
		}
	}
	if !a.console.JSON {
		if err := a.printText(func(w io.Writer) error { return printList(w, found) }); err != nil {
			return err
		}
	}
	return a.done()
}

// checkDirectories finds what was mistyped: what is missing further down is
// only warned of.
func checkDirectories(tree disk.Tree, dirs []string) error {
	var errs []error
	for _, dir := range dirs {
		st, err := tree.Stat(dir)
		if err == nil && !st.IsDir() {
			err = fmt.Errorf("%s: not a directory: %w", dir, disk.ErrUnsupported)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// capacity returns the capacity of the disk at path in bytes.
func capacity(tree disk.Tree, path string, allowOutside bool) (int64, error) {
	d, err := vmdk.Open(path, vmdk.Options{Tree: tree, Role: vmdk.RoleConfigured, AllowOutside: allowOutside})
	if err != nil {
		return 0, err
	}
	return d.Size(), d.Close()
}

// warnOf tells on stderr what keeps a VM from being backed up well, so that
// the exit code says it too.
func (a *app) warnOf(s *vm.Summary) {
	if s.Error != "" {
		a.console.Warn(s.Error)
	}
	for _, w := range s.Warnings {
		a.console.Warn(s.Path + ": " + w)
	}
}

func printList(w io.Writer, vms []vm.Summary) error {
	if len(vms) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "NAME\tSTATE\tDISKS\tCAPACITY\tSNAPSHOTS\tPATH\n")
	for i := range vms {
		s := &vms[i]
		size := "-"
		if s.CapacityBytes > 0 {
			size = cli.Bytes(s.CapacityBytes)
		}
		// A tab of a name would be taken for the end of a column.
		row := []string{s.Name, listState(s), fmt.Sprint(s.Disks), size, fmt.Sprint(s.Snapshots), s.Path}
		for j := range row {
			row[j] = strings.NewReplacer("\t", "?", "\n", "?", "\v", "?", "\f", "?").Replace(row[j])
		}
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

func listState(s *vm.Summary) string {
	switch {
	case s.Error != "":
		return "error"
	case len(s.InUse) > 0:
		return "in use"
	case s.Suspended:
		return "suspended"
	}
	return "off"
}
