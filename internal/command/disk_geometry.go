// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/vmdk"
)

const longDiskGeometry = `Geometry prints the geometry (cylinders/heads/sectors) that is stored with a disk,
the one that products compute for a new disk of its size, and the one that its
partition table was made with. A disk keeps the geometry it has: where they
differ, that is told and nothing is changed. With --size it prints what a new
disk gets.

  vmstream disk geometry web01.vmdk
  vmstream disk geometry --size 8G --adapter ide`

// diskGeometry is what disk geometry prints with --json. docs/scripting.md has it.
type diskGeometry struct {
	Path          string             `json:"path,omitempty"`
	CapacityBytes int64              `json:"capacity_bytes"`
	Sectors       int64              `json:"sectors"`
	Adapter       string             `json:"adapter,omitempty"` // as stored, or asked for
	Stored        *vmdk.Geometry     `json:"stored,omitempty"`
	BIOS          *vmdk.Geometry     `json:"bios,omitempty"`
	Computed      []computedGeometry `json:"computed"`
	MBR           *mbrGeometry       `json:"mbr,omitempty"`
	Mismatches    []string           `json:"mismatches"`
}

type computedGeometry struct {
	Adapter string `json:"adapter"`
	vmdk.Geometry
}

// mbrGeometry is what a partition table implies: it has no cylinders.
type mbrGeometry struct {
	Heads   uint32 `json:"heads"`
	Sectors uint32 `json:"sectors"`
}

type geometryOptions struct {
	disk    diskFlags
	size    cli.Size
	adapter string
}

// geometryAdapters are the adapter types of descriptors; the rules differ
// between ide and the others only.
func geometryAdapters() []string { return []string{"ide", "buslogic", "lsilogic", "legacyESX"} }

func newDiskGeometry(a *app) *cobra.Command {
	o := &geometryOptions{}
	c := &cobra.Command{
		Use: "geometry [flags] DISK|--size SIZE", Short: "Print the geometry of a disk: stored, computed, implied",
		Long: longDiskGeometry + "\n\n" + exitCodes, Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return runDiskGeometry(a, o, args) },
	}
	o.disk.add(c)
	c.Flags().Var(&o.size, "size", "capacity of a new disk, in place of DISK")
	c.Flags().StringVar(&o.adapter, "adapter", "", "compute for this adapter only: ide, buslogic, lsilogic, legacyESX")
	complete(c, "adapter", geometryAdapters())
	return c
}

func (o *geometryOptions) validate(args []string) error {
	switch {
	case len(args) == 0 && o.size <= 0, len(args) == 1 && o.size > 0:
		return errors.New("name a disk, or say with --size how large a new one would be")
	case o.size > disk.MaxSize:
		return fmt.Errorf("--size %s: at most %s", &o.size, cli.Bytes(disk.MaxSize))
	case o.adapter != "" && !slices.Contains(geometryAdapters(), o.adapter):
		return fmt.Errorf("--adapter %q: one of %v", o.adapter, geometryAdapters())
	}
	return nil
}

func runDiskGeometry(a *app, o *geometryOptions, args []string) error {
	if err := o.validate(args); err != nil {
		return cli.Usage(err)
	}
	g := &diskGeometry{CapacityBytes: int64(o.size), Adapter: o.adapter, Mismatches: []string{}}
	if len(args) == 1 {
		if err := g.read(a, o, args[0]); err != nil {
			return err
		}
	}
	g.compute(o.adapter)
	g.compare()
	print := func() error { return a.printText(g.print) }
	if a.console.JSON {
		print = func() error { return a.printJSON(g) }
	}
	if err := print(); err != nil {
		return err
	}
	return a.done()
}

// read takes what is stored with a disk and on it.
func (g *diskGeometry) read(a *app, o *geometryOptions, path string) error {
	im, err := o.disk.open(a, path)
	if err != nil {
		return err
	}
	defer im.Close() // only read
	info := im.Info()
	g.Path, g.CapacityBytes = path, info.SizeBytes
	g.Stored, g.BIOS = stored(info.Geometry), stored(info.BIOSGeometry)
	if g.Adapter == "" {
		g.Adapter = info.Adapter
	}
	var first [disk.SectorSize]byte
	if im.Size() < disk.SectorSize {
		return nil
	}
	if err := disk.ReadFull(im, first[:], 0); err != nil {
		return cli.Source(err)
	}
	if m, ok := vmdk.MBRGeometry(first[:]); ok {
		g.MBR = &mbrGeometry{m.Heads, m.Sectors}
	}
	return nil
}

func (g *diskGeometry) compute(adapter string) {
	g.Sectors = (g.CapacityBytes + disk.SectorSize - 1) / disk.SectorSize
	adapters := geometryAdapters()
	if adapter != "" {
		adapters = []string{adapter}
	}
	for _, name := range adapters {
		g.Computed = append(g.Computed, computedGeometry{name, vmdk.GeometryFor(name, g.Sectors)})
	}
}

// compare notes what differs. Only heads and sectors matter for a guest that
// does not boot: cylinders are rounded in many ways.
func (g *diskGeometry) compare() {
	if g.Stored == nil {
		return
	}
	differ := func(format string, args ...any) { g.Mismatches = append(g.Mismatches, fmt.Sprintf(format, args...)) }
	if g.Adapter != "" {
		if c := vmdk.GeometryFor(g.Adapter, g.Sectors); c != *g.Stored {
			differ("stored %s, computed for %s %s: keep what is stored", g.Stored, g.Adapter, c)
		}
	}
	shown := *g.Stored
	if g.BIOS != nil {
		shown = *g.BIOS
	}
	if m := g.MBR; m != nil && (m.Heads != shown.Heads || m.Sectors != shown.Sectors) {
		differ("the disk was partitioned with %d heads and %d sectors, the guest sees %d and %d: it may not boot", m.Heads, m.Sectors, shown.Heads, shown.Sectors)
	}
}

func (g *diskGeometry) print(w io.Writer) error {
	line := func(name string, v any) { fmt.Fprintf(w, "%-22s %v\n", name, v) }
	line("sectors", g.Sectors)
	if g.Adapter != "" {
		line("adapter", g.Adapter)
	}
	switch {
	case g.Stored != nil:
		line("stored", g.Stored)
	case g.Path != "":
		line("stored", "none")
	}
	if g.BIOS != nil {
		line("stored for the BIOS", g.BIOS)
	}
	for _, c := range g.Computed {
		line("computed for "+c.Adapter, c.Geometry)
	}
	if g.MBR != nil {
		line("implied by the MBR", fmt.Sprintf("-/%d/%d", g.MBR.Heads, g.MBR.Sectors))
	}
	for _, m := range g.Mismatches {
		line("mismatch", m)
	}
	return nil
}
