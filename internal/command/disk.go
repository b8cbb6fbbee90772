// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"bytes"
	"encoding/json"
	"io"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/vmdk"
)

const longDisk = `Disk tells about virtual disks and converts them. DISK is a VMDK of any kind, with
the whole chain below it, a raw file or a block device. It is opened read-only.`

func newDisk(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "disk", Short: "Tell about disks and convert them",
		Long: longDisk + "\n\n" + exitCodes, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newDiskInfo(a), newDiskMap(a), newDiskConvert(a), newDiskGeometry(a), newDiskExtend(a), newDiskMapRaw(a))
	return c
}

// diskFlags say how a disk is opened.
type diskFlags struct {
	volumes      volumeFlags
	format       string
	allowOutside bool
	padShort     bool
}

func (d *diskFlags) add(c *cobra.Command) {
	addSourceFormat(c, &d.format)
	d.volumes.add(c)
	c.Flags().BoolVar(&d.allowOutside, "allow-outside", false, "let descriptors name files outside their directory, and devices")
	c.Flags().BoolVar(&d.padShort, "pad-short", false, "fill up flat files that are too short, and a last part of a sector, with zeros")
}

// openDisk is a disk and what it lies in.
type openDisk struct {
	*vmdk.Disk
	at *located
}

// Close closes both.
func (d *openDisk) Close() error {
	defer d.at.close()
	return d.Disk.Close()
}

// open opens the disk at path with its chain.
func (d *diskFlags) open(a *app, path string) (*openDisk, error) {
	if err := checkSourceFormat(d.format); err != nil {
		return nil, err
	}
	at, err := d.volumes.locate(a, path)
	if err != nil {
		return nil, err
	}
	im, err := vmdk.Open(at.paths[0], vmdk.Options{
		Tree: at.tree, Format: vmdk.SourceFormat(d.format), AllowOutside: d.allowOutside, PadShort: d.padShort, Warn: a.console.Warn,
	})
	if err != nil {
		at.close()
		return nil, cli.Source(err)
	}
	return &openDisk{im, at}, nil
}

// printJSON prints a result for programs: one object, one line.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.Out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// printText prints what show writes. Names that come from a disk cannot send
// control characters to a terminal.
func (a *app) printText(show func(io.Writer) error) error {
	var b bytes.Buffer
	if err := show(&b); err != nil {
		return err
	}
	for line := range bytes.Lines(b.Bytes()) {
		s := cli.Clean(string(bytes.TrimSuffix(line, []byte("\n"))))
		if _, err := io.WriteString(a.Out, s+"\n"); err != nil {
			return err
		}
	}
	return nil
}
