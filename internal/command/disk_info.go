// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

const longDiskInfo = `Info tells what a disk is: its kind, capacity, content id, adapter and geometry,
the links of its chain with their extents, and how much of it is stored, which
the metadata tells: no data is read.

  vmstream disk info web01-000002.vmdk`

// diskInfo is what disk info prints with --json. docs/scripting.md has it.
type diskInfo struct {
	Path           string         `json:"path"`
	Kind           string         `json:"kind"`
	CapacityBytes  int64          `json:"capacity_bytes"`
	AllocatedBytes int64          `json:"allocated_bytes"` // not known to be zero
	ZeroBytes      int64          `json:"zero_bytes"`      // known to be zero without reading
	DataRuns       int64          `json:"data_runs"`
	CID            string         `json:"cid,omitempty"`
	ParentCID      string         `json:"parent_cid,omitempty"`
	LongContentID  string         `json:"long_content_id,omitempty"`
	UUID           string         `json:"uuid,omitempty"`
	Adapter        string         `json:"adapter,omitempty"`
	HWVersion      string         `json:"hw_version,omitempty"`
	Geometry       *vmdk.Geometry `json:"geometry,omitempty"`
	BIOSGeometry   *vmdk.Geometry `json:"bios_geometry,omitempty"`
	DDB            []vmdk.Entry   `json:"ddb"`
	Links          []diskLink     `json:"links"` // the top one first
	Files          []string       `json:"files"`
}

type diskLink struct {
	Path               string       `json:"path"`
	Kind               string       `json:"kind"`
	CID                string       `json:"cid,omitempty"`
	ParentCID          string       `json:"parent_cid,omitempty"`
	ParentFileNameHint string       `json:"parent_file_name_hint,omitempty"`
	CapacityBytes      int64        `json:"capacity_bytes"`
	Extents            []diskExtent `json:"extents"`
}

type diskExtent struct {
	Path        string `json:"path,omitempty"`
	Type        string `json:"type"`
	SizeBytes   int64  `json:"size_bytes"`
	OffsetBytes int64  `json:"offset_bytes"`
	FileBytes   int64  `json:"file_bytes"`
	GrainBytes  int64  `json:"grain_bytes,omitempty"`
	Compressed  bool   `json:"compressed,omitempty"`
}

func newDiskInfo(a *app) *cobra.Command {
	var d diskFlags
	c := &cobra.Command{
		Use: "info [flags] DISK", Short: "Tell what a disk is, with its chain",
		Long: longDiskInfo + "\n\n" + exitCodes, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return runDiskInfo(c, a, &d, args[0]) },
	}
	d.add(c)
	return c
}

func runDiskInfo(c *cobra.Command, a *app, d *diskFlags, path string) error {
	im, err := d.open(a, path)
	if err != nil {
		return err
	}
	defer im.Close() // only read
	i := describeDisk(path, im.Info())
	if i.AllocatedBytes, i.DataRuns, err = pipeline.Allocated(c.Context(), im); err != nil {
		return cli.Source(err)
	}
	i.ZeroBytes = i.CapacityBytes - i.AllocatedBytes
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

func describeDisk(path string, info vmdk.Info) *diskInfo {
	i := &diskInfo{
		Path: path, Kind: info.Kind, CapacityBytes: info.SizeBytes, CID: contentIDText(info.CID), ParentCID: parentIDText(info.ParentCID),
		LongContentID: info.LongContentID, UUID: info.UUID, Adapter: info.Adapter, HWVersion: info.HWVersion,
		Geometry: stored(info.Geometry), BIOSGeometry: stored(info.BIOSGeometry),
		DDB: append([]vmdk.Entry{}, info.DDB...), Files: append([]string{}, info.Files...),
	}
	for _, l := range info.Links {
		link := diskLink{
			Path: l.Path, Kind: l.Kind, CID: contentIDText(l.CID), ParentCID: parentIDText(l.ParentCID),
			ParentFileNameHint: l.ParentFileNameHint, CapacityBytes: l.SizeBytes, Extents: []diskExtent{},
		}
		for _, e := range l.Extents {
			link.Extents = append(link.Extents, diskExtent(e))
		}
		i.Links = append(i.Links, link)
	}
	return i
}

// contentIDText is empty for a disk without a descriptor, which has no CID.
func contentIDText(cid uint32) string {
	if cid == 0 {
		return ""
	}
	return stream.CIDString(cid)
}

func parentIDText(cid uint32) string {
	if cid == vmdk.NoParent {
		return ""
	}
	return stream.CIDString(cid)
}

func stored(g vmdk.Geometry) *vmdk.Geometry {
	if g.IsZero() {
		return nil
	}
	return &g
}

func (i *diskInfo) print(w io.Writer) error {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-12s "+format+"\n", append([]any{name}, args...)...)
	}
	line("disk", "%s", i.Path)
	line("kind", "%s", i.Kind)
	line("capacity", "%s (%d bytes)", cli.Bytes(i.CapacityBytes), i.CapacityBytes)
	line("allocated", "%s in %d runs, %.1f %% known to be zero", cli.Bytes(i.AllocatedBytes), i.DataRuns, cli.Percent(i.ZeroBytes, i.CapacityBytes))
	for _, f := range []struct{ name, value string }{
		{"CID", i.CID},
		{"parent CID", i.ParentCID},
		{"content ID", i.LongContentID},
		{"UUID", i.UUID},
		{"adapter", i.Adapter},
		{"hardware", i.HWVersion},
	} {
		if f.value != "" {
			line(f.name, "%s", f.value)
		}
	}
	if i.Geometry != nil {
		line("geometry", "%s cylinders/heads/sectors", i.Geometry)
	}
	if i.BIOSGeometry != nil {
		line("BIOS", "%s cylinders/heads/sectors", i.BIOSGeometry)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "\nlink\tkind\textent\tdisk\tfile size\tgrain\tfile\n")
	for n, l := range i.Links {
		for _, e := range l.Extents {
			fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", n, l.Kind, e.kind(), cli.Bytes(e.SizeBytes), cli.Bytes(e.FileBytes), e.grain(), e.Path)
		}
	}
	return t.Flush()
}

func (e *diskExtent) kind() string {
	if e.Compressed {
		return e.Type + " compressed"
	}
	return e.Type
}

func (e *diskExtent) grain() string {
	if e.GrainBytes == 0 {
		return "-"
	}
	return cli.Bytes(e.GrainBytes)
}
