// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/scsi"
)

const longSCSIInfo = `Info asks a LUN who it is, how large it is, whether it tells which of its blocks hold
nothing, and who has reserved it. A tape drive or changer tells what it can of that.

  vmstream scsi info /dev/sdb`

// scsiInfo is what scsi info prints with --json. docs/scripting.md has it.
type scsiInfo struct {
	scsi.LUN
	Capacity    *scsi.Capacity    `json:"capacity,omitempty"`
	Unmap       bool              `json:"unmap"`      // blocks can be made to hold nothing
	LBAStatus   bool              `json:"lba_status"` // it tells which ones do
	Reservation *scsi.Reservation `json:"reservation,omitempty"`
	Alerts      []int             `json:"tape_alerts,omitempty"`
}

func newSCSIInfo(a *app) *cobra.Command {
	var n lunNames
	c := &cobra.Command{
		Use: "info [flags] LUN", Short: "Tell what a LUN is, and who has reserved it",
		Long: longSCSIInfo + "\n\n" + exitCodes, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return runSCSIInfo(c.Context(), a, &n, args[0]) },
	}
	n.add(c)
	return c
}

func runSCSIInfo(ctx context.Context, a *app, n *lunNames, name string) error {
	l, d, err := n.open(name)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // nothing was written
	i := &scsiInfo{LUN: *l}
	if err := i.ask(ctx, d); err != nil {
		return cli.Source(err)
	}
	if a.console.JSON {
		err = a.printJSON(i)
	} else {
		err = a.printText(i.print)
	}
	if err != nil {
		return err
	}
	return a.done()
}

// ask asks the device itself; what it says is newer than what the kernel has kept.
func (i *scsiInfo) ask(ctx context.Context, d *scsi.Device) error {
	var err error
	if i.Inquiry, err = d.Inquiry(ctx); err != nil {
		return err
	}
	if i.Identity, err = d.Identity(ctx); err != nil {
		return err
	}
	i.ID = i.Best()
	if i.Type == scsi.TypeTape {
		i.Alerts, err = d.TapeAlerts(ctx)
		return ignore(err, scsi.ErrUnsupported, scsi.ErrNotReady)
	}
	r, err := d.Reservation(ctx)
	if err != nil {
		return err
	}
	i.Reservation = &r
	if i.Type != scsi.TypeDisk {
		return nil
	}
	return ignore(i.askDisk(ctx, d), scsi.ErrReserved, scsi.ErrNotReady)
}

func (i *scsiInfo) askDisk(ctx context.Context, d *scsi.Device) error {
	c, err := d.Capacity(ctx)
	if err != nil {
		return err
	}
	i.Capacity, i.SizeBytes, i.BlockBytes = &c, c.SizeBytes(), c.BlockBytes
	limits, err := d.Limits(ctx)
	if err != nil {
		return err
	}
	i.Unmap = limits.Unmap
	_, err = d.LBAStatus(ctx, 0)
	i.LBAStatus = err == nil
	return ignore(err, scsi.ErrUnsupported)
}

// ignore returns nil for errors of these kinds.
func ignore(err error, kinds ...error) error {
	for _, k := range kinds {
		if errors.Is(err, k) {
			return nil
		}
	}
	return err
}

func (i *scsiInfo) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "device\t%s %v\naddress\t%v\nmodel\t%s %s %s\nserial\t%s\n", dash(i.Node), i.Type, i.Address, i.Vendor, i.Model, i.Revision, dash(i.Serial))
	for _, id := range i.IDs {
		fmt.Fprintf(t, "id\t%s\n", id)
	}
	for _, n := range i.Names {
		fmt.Fprintf(t, "name\t%v\n", n)
	}
	if c := i.Capacity; c != nil {
		fmt.Fprintf(t, "capacity\t%s, blocks of %d bytes\nprovisioning\t%s\n", cli.Bytes(c.SizeBytes()), c.BlockBytes, i.provisioning())
	}
	if i.Reservation != nil {
		fmt.Fprintf(t, "reserved\t%v\n", i.Reservation)
		for _, r := range i.Reservation.Registrants {
			fmt.Fprintf(t, "registered\t%v %s\n", r.Key, r.Host)
		}
	}
	for _, n := range i.Alerts {
		fmt.Fprintf(t, "alert\t%d: %s\n", n, scsi.TapeAlert(n))
	}
	return t.Flush()
}

// provisioning tells what a backup can make of blocks that hold nothing.
func (i *scsiInfo) provisioning() string {
	switch c := i.Capacity; {
	case !c.Thin:
		return "thick"
	case !i.LBAStatus:
		return "thin; which blocks hold nothing is not told"
	case !c.ZeroIfUnmapped:
		return "thin; what blocks read as that hold nothing is not told"
	}
	return "thin; blocks that hold nothing are not read"
}
