// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/scsi"
)

const longSCSIScan = `Scan lists the disks, tapes and changers of this machine, with all of their paths. No
command is given to them but those that ask who has reserved a disk.

--rescan has the host adapters look for devices that are new first: all of them, or those
that are named, as in host2, 2 or vmhba2.

  vmstream scsi scan --rescan
  vmstream scsi scan --vmhba-table /etc/vmhba --learn`

// scsiLUN is what scsi scan prints of each device with --json. docs/scripting.md has it.
type scsiLUN struct {
	scsi.LUN
	Reservation *scsi.Reservation `json:"reservation,omitempty"`
}

type scsiScan struct {
	names  lunNames
	rescan bool
	learn  bool
	quick  bool
}

func newSCSIScan(a *app) *cobra.Command {
	var o scsiScan
	c := &cobra.Command{
		Use: "scan [flags] [HOST...]", Short: "List the devices of this machine",
		Long: longSCSIScan + "\n\n" + exitCodes,
		RunE: func(c *cobra.Command, args []string) error { return o.run(c.Context(), a, args) },
	}
	o.names.add(c)
	c.Flags().BoolVar(&o.rescan, "rescan", false, "have host adapters look for new devices first")
	c.Flags().BoolVar(&o.learn, "learn", false, "add LUNs that --vmhba-table does not have; names that it has stay")
	c.Flags().BoolVar(&o.quick, "no-commands", false, "do not ask disks who has reserved them")
	return c
}

func (o *scsiScan) run(ctx context.Context, a *app, args []string) error {
	if o.learn && o.names.table == "" {
		return cli.Usage(errors.New("--learn goes with --vmhba-table"))
	}
	hosts, err := hostNumbers(args)
	if err != nil {
		return err
	}
	if o.rescan {
		if err := rescanHosts(a, hosts); err != nil {
			return cli.Source(err)
		}
	}
	luns, err := scsi.Sysfs{}.LUNs()
	if err != nil {
		return cli.Source(err)
	}
	if err := o.name(a, luns); err != nil {
		return err
	}
	var all []scsiLUN
	for i := range luns {
		if len(hosts) > 0 && !hosts[luns[i].Address.Host] {
			continue
		}
		l := scsiLUN{LUN: luns[i]}
		if !o.quick {
			l.Reservation = askReservation(ctx, a, &luns[i])
		}
		all = append(all, l)
	}
	if err := printSCSI(a, all); err != nil {
		return err
	}
	return a.done()
}

// name gives the LUNs their names, after it has added new ones if that is wanted.
func (o *scsiScan) name(a *app, luns []scsi.LUN) error {
	t, err := o.names.read()
	if o.learn && errors.Is(err, fs.ErrNotExist) {
		t, err = &scsi.Table{}, nil
	}
	if t == nil || err != nil {
		return err
	}
	if o.learn {
		if n := t.Learn(luns); n > 0 {
			if err := o.names.write(t); err != nil {
				return err
			}
			a.console.Detail("%s: %d LUNs more", o.names.table, n)
		}
	}
	t.Name(luns)
	return nil
}

// hostNumbers reads names of host adapters.
func hostNumbers(args []string) (map[int]bool, error) {
	hosts := map[int]bool{}
	for _, s := range args {
		n, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimPrefix(s, "vmhba"), "host"), 10, 31)
		if err != nil {
			return nil, cli.Usage(fmt.Errorf("%q: no host adapter, as in host2", s))
		}
		hosts[int(n)] = true
	}
	return hosts, nil
}

// rescanHosts has host adapters look for new devices, all of them if none is named.
func rescanHosts(a *app, hosts map[int]bool) error {
	all, err := scsi.Sysfs{}.Hosts()
	if err != nil {
		return err
	}
	for n := range hosts {
		all = append(all, n) // one that is not there is an error
	}
	done := map[int]bool{}
	for _, n := range all {
		if done[n] || len(hosts) > 0 && !hosts[n] {
			continue
		}
		if err := (scsi.Sysfs{}).Rescan(n); err != nil {
			return err
		}
		done[n] = true
		a.console.Detail("host%d has looked for new devices", n)
	}
	return nil
}

// askReservation asks a disk who has reserved it; nil if that is not to be known.
func askReservation(ctx context.Context, a *app, l *scsi.LUN) *scsi.Reservation {
	if l.Type != scsi.TypeDisk || l.Node == "" || l.State != "running" {
		return nil
	}
	d, err := scsi.Open(l.Node)
	if err == nil {
		defer d.Close() //nolint:errcheck // nothing was written
		var r scsi.Reservation
		if r, err = d.Reservation(ctx); err == nil {
			return &r
		}
	}
	a.console.Detail("who has reserved it: %v", err)
	return nil
}

func printSCSI(a *app, all []scsiLUN) error {
	if !a.console.JSON {
		return a.printText(func(w io.Writer) error { return printLUNs(w, all) })
	}
	for i := range all {
		if err := a.printJSON(&all[i]); err != nil {
			return err
		}
	}
	return nil
}

func printLUNs(w io.Writer, all []scsiLUN) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "ADDRESS\tNODE\tTYPE\tSIZE\tMODEL\tID\tPATHS\tSTATE\tRESERVED\tNAMES")
	for i := range all {
		l := &all[i]
		size, reserved := "-", "-"
		if l.SizeBytes > 0 {
			size = cli.Bytes(l.SizeBytes)
		}
		if l.Reservation != nil {
			reserved = l.Reservation.String()
		}
		var names []string
		for _, n := range l.Names {
			names = append(names, n.String())
		}
		fmt.Fprintf(t, "%v\t%s\t%v\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", l.Address, dash(l.CommandNode()), l.Type, size,
			dash(strings.TrimSpace(l.Vendor+" "+l.Model)), dash(string(l.ID)), l.Paths, dash(l.State), reserved, dash(strings.Join(names, " ")))
	}
	return t.Flush()
}
