// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/wholefile"
	"github.com/vmstream/vmstream/scsi"
)

const longSCSI = `Scsi finds the LUNs of this machine, tells who they are and who has reserved them, and
reserves, releases and resets them. Most of it needs root.

LUN is a node such as /dev/sdb, an id (naa.600..., eui...., t10...., also as udev writes it below
/dev/disk/by-id), an address of Linux (HOST:CHANNEL:TARGET:LUN), or a name of ESX
(vmhba1:2:0). A LUN is told by its own id: when it is presented at another address it
stays the same. --vmhba-table names a file that keeps which LUNs the names of ESX stand
for; without one vmhba1:2:0 is what host adapter 1 of this machine has at target 2, LUN 0.`

func newSCSI(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "scsi", Short: "Find LUNs, and reserve, release and reset them",
		Long: longSCSI + "\n\n" + exitCodes, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newSCSIScan(a), newSCSIInfo(a), newSCSIReserve(a), newSCSIRelease(a), newSCSIReset(a))
	return c
}

// lunNames find LUNs by what they are called.
type lunNames struct{ table string }

func (n *lunNames) add(c *cobra.Command) {
	c.Flags().StringVar(&n.table, "vmhba-table", "", "file that keeps which LUNs the names of ESX, such as vmhba1:2:0, stand for; scsi scan --learn makes it")
}

// read reads the table; nil if there is none.
func (n *lunNames) read() (*scsi.Table, error) {
	if n.table == "" {
		return nil, nil
	}
	f, err := os.Open(n.table)
	if err != nil {
		return nil, cli.Source(err)
	}
	defer f.Close() // only read
	t, err := scsi.ReadTable(f)
	if err != nil {
		return nil, cli.Source(fmt.Errorf("%s: %w", n.table, err))
	}
	return t, nil
}

// write replaces the table.
func (n *lunNames) write(t *scsi.Table) error {
	var b bytes.Buffer
	if _, err := t.WriteTo(&b); err != nil {
		return err
	}
	return wholefile.Write(filepath.Clean(n.table), b.Bytes(), 0o644)
}

// find finds the LUN that is meant.
func (n *lunNames) find(s string) (*scsi.LUN, error) {
	t, err := n.read()
	if err != nil {
		return nil, err
	}
	luns, err := scsi.Sysfs{}.LUNs()
	if err != nil {
		return nil, cli.Source(err)
	}
	if t != nil {
		t.Name(luns)
	}
	l, err := scsi.Find(s, luns, t)
	if err != nil {
		return nil, cli.Source(err)
	}
	return l, nil
}

// open opens the LUN that is meant.
func (n *lunNames) open(s string) (*scsi.LUN, *scsi.Device, error) {
	l, err := n.find(s)
	if err != nil {
		return nil, nil, err
	}
	node := l.CommandNode()
	if node == "" {
		return nil, nil, cli.Source(fmt.Errorf("%v: the kernel has no driver for it that takes commands: modprobe sg: %w", l.Address, scsi.ErrNoDevice))
	}
	d, err := scsi.Open(node)
	if err != nil {
		return nil, nil, cli.Source(err)
	}
	return l, d, nil
}
