// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/vmfs"
)

const longVMFSInfo = `Info tells what a volume is, on which devices it lies, and which hosts use it: those whose
heartbeat is in use. A host that has crashed leaves its heartbeat; --live looks a second
time after 20 seconds and tells which of them beat.

  vmstream vmfs info --live /dev/sdb`

// vmfsInfo is what vmfs info prints with --json. docs/scripting.md has it.
type vmfsInfo struct {
	Version       string       `json:"version"`
	Label         string       `json:"label"`
	UUID          string       `json:"uuid"`
	LVM           string       `json:"lvm,omitempty"`
	Created       string       `json:"created"`
	CapacityBytes int64        `json:"capacity_bytes"`
	BlockBytes    int64        `json:"block_bytes"`
	SubBlockBytes int64        `json:"sub_block_bytes"`
	Devices       []vmfsDevice `json:"devices"`
	Hosts         []vmfsHost   `json:"hosts"`
}

type vmfsDevice struct {
	Path           string `json:"path"`
	PartitionTable string `json:"partition_table,omitempty"`
	Partition      int    `json:"partition,omitempty"`
	OffsetBytes    int64  `json:"offset_bytes"`
	SizeBytes      int64  `json:"size_bytes"`
	UUID           string `json:"uuid"`
	LUN            string `json:"lun,omitempty"` // as the host saw it
}

type vmfsHost struct {
	UUID       string `json:"uuid"`
	MAC        string `json:"mac"`
	IP         string `json:"ip,omitempty"`
	Generation uint64 `json:"generation"`
	Journal    bool   `json:"journal"`
	Live       *bool  `json:"live,omitempty"` // with --live
}

func newVMFSInfo(a *app) *cobra.Command {
	var v vmfsFlags
	var live bool
	c := &cobra.Command{
		Use: "info [flags] VOLUME", Short: "Tell what a volume is and who uses it",
		Long: longVMFSInfo + "\n\n" + exitCodes, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return runVMFSInfo(c.Context(), a, &v, live, args[0]) },
	}
	v.add(c)
	c.Flags().BoolVar(&live, "live", false, "look at the heartbeats twice, and tell which hosts live")
	return c
}

func runVMFSInfo(ctx context.Context, a *app, v *vmfsFlags, live bool, spec string) error {
	f, _, err := v.open(spec)
	if err != nil {
		return err
	}
	defer f.close()
	i := describeVMFS(f)
	slots, err := f.Heartbeats()
	if err != nil {
		return cli.Source(err)
	}
	var beating []vmfs.Slot
	if live {
		a.console.Detail("looking at the heartbeats again in %v", vmfs.BeatTime)
		select {
		case <-time.After(vmfs.BeatTime):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		later, err := f.Heartbeats()
		if err != nil {
			return cli.Source(err)
		}
		slots, beating = later, vmfs.Live(slots, later)
	}
	for _, s := range slots {
		if !s.InUse {
			continue
		}
		h := vmfsHost{UUID: s.Owner.String(), MAC: s.Owner.MAC(), IP: s.IP, Generation: s.Generation, Journal: s.Journal != 0}
		if live {
			h.Live = new(bool)
			for _, b := range beating {
				*h.Live = *h.Live || b.Index == s.Index
			}
		}
		i.Hosts = append(i.Hosts, h)
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

func describeVMFS(f *vmfsVolume) *vmfsInfo {
	h := f.Header()
	i := &vmfsInfo{
		Version: h.Version(), Label: h.Label, UUID: h.UUID.String(), Created: h.Created.Format(time.RFC3339),
		CapacityBytes: f.SizeBytes(), BlockBytes: h.BlockBytes, SubBlockBytes: h.SubBlockBytes, Hosts: []vmfsHost{}, Devices: []vmfsDevice{},
	}
	for _, m := range f.Members() {
		i.LVM = m.LVM.Volume.String()
		d := vmfsDevice{
			Path: f.devices[m.Device].Name(), PartitionTable: m.Partition.Table, OffsetBytes: m.Partition.OffsetBytes,
			SizeBytes: m.Partition.SizeBytes, UUID: m.LVM.Device.String(), LUN: m.LVM.Disk.String(),
		}
		if d.PartitionTable != "" {
			d.Partition = m.Partition.Slot + 1
		}
		i.Devices = append(i.Devices, d)
	}
	return i
}

func (i *vmfsInfo) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "volume\t%s\nversion\tVMFS-%s\nuuid\t%s\ncreated\t%s\ncapacity\t%s\nblocks\t%s, sub-blocks of %s\n",
		i.Label, i.Version, i.UUID, i.Created, cli.Bytes(i.CapacityBytes), cli.Bytes(i.BlockBytes), cli.Bytes(i.SubBlockBytes))
	for _, d := range i.Devices {
		where := "whole"
		if d.PartitionTable != "" {
			where = fmt.Sprintf("partition %d (%s)", d.Partition, d.PartitionTable)
		}
		fmt.Fprintf(t, "device\t%s, %s, %s\n", d.Path, where, cli.Bytes(d.SizeBytes))
	}
	for _, h := range i.Hosts {
		state := "in use, it may have crashed"
		if h.Live != nil && *h.Live {
			state = "lives"
		} else if h.Live != nil {
			state = "does not beat"
		}
		fmt.Fprintf(t, "host\t%s %s %s\n", h.UUID, h.IP, state)
	}
	return t.Flush()
}
