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

// device returns the node that a name of a LUN stands for, or of its partition:
// vmhba1:2:0:3, naa.600..., 2:0:1:3. What is a file, or no such name, stands for itself.
func (n *lunNames) device(s string) (string, error) {
	if _, err := os.Lstat(s); err == nil {
		return s, nil
	}
	name, nameErr := scsi.ParseName(s)
	_, addressErr := scsi.ParseAddress(s)
	_, idErr := scsi.ParseID(s)
	if nameErr != nil && addressErr != nil && idErr != nil {
		return s, nil
	}
	l, err := n.find(s)
	if err != nil {
		return "", err
	}
	node, err := scsi.Sysfs{}.Partition(l, name.Partition)
	return node, cli.Source(err)
}

// devices is device for all of them.
func (n *lunNames) devices(all []string) ([]string, error) {
	nodes := make([]string, len(all))
	for i, s := range all {
		var err error
		if nodes[i], err = n.device(s); err != nil {
			return nil, err
		}
	}
	return nodes, nil
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
