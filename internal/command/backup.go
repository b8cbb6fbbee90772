// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/pipeline"
	"github.com/vmstream/vmstream/internal/wholefile"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vm/snapshot"
	"github.com/vmstream/vmstream/vmdk"
)

type backupOptions struct {
	volumes      volumeFlags
	source       pipeline.SourceOptions
	sourceFormat string
	resources    resources
	codec        codecFlags
	extent       cli.Size
	id, time     string
	consistency  string
	indexOut     string
	since        string
	parent       *stream.Index // in since
	snapshot     snapshotFlags
	hooks        hooks
	tracking     trackFlags
	store        storeFlags
	auditedBytes int64
}

const longBackup = `Backup writes a VM, or a disk alone, to stdout as one stream. VM is a .vmx or .cfg
file or a directory with one; DISK is a VMDK of any kind, a raw file or a block
device, and is taken as a VM with one disk, whose key is "disk".

The stream is a tar. Zeros and holes are not stored. With --codec it is
compressed in frames that zstd, lz4 and xz decompress.

  vmstream backup web01.vmx > web01.tar
  vmstream backup --codec zstd /dev/sdb | aws s3 cp - s3://bucket/sdb.tar.zst

A VM on a VMFS volume is read from the LUN, or from a snapshot of it that an array has
made, without an ESX host.

  vmstream backup vmfs:/dev/sdb!/web01/web01.vmx > web01.tar
  vmstream backup --vmfs /dev/sdb '[datastore1] web01/web01.vmx' > web01.tar

With --to the stream goes elsewhere, and to several places at once if it is repeated;
the source is read once. It is there whole or not at all: it appears when everything
has been stored, and only then does the next increment begin. A target that ends with
/ gets a name: NAME-ID.tar, and .zst, .lz4 or .xz by the codec.

  vmstream backup --codec zstd --to /backup/ --to-optional /mnt/usb/ web01.vmx

What is in use is refused. --snapshot makes disks stand still: redo puts redo logs over
those of a VM that is powered off, exec (--exec) has the host's tools make a snapshot
of a running one, qmp (--qmp) asks QEMU; VM may be left out then. The snapshot is removed
on every way out; see vmstream snapshot for what a killed run leaves. Hooks run around
it (--pre, --pre-freeze, --post-thaw, --post).

  vmstream backup --exec esxi /vmfs/volumes/ds1/web01/web01.vmx > web01.tar
  vmstream backup --qmp /run/web01.qmp > web01.tar

With --skip-free what the file systems on the disks do not use is left out, and reads as
zeros when it is restored. A file system that is not understood, or is damaged, is taken
whole; -v tells why.

With --since only what has changed since an earlier backup is written: of each disk
the links above the one that was backed up then, found by their content ids. A disk
without links or content ids, such as a raw file or a device, is read whole and
compared with the digests that the earlier backup has kept with --track; increments
keep them too. A sample of what is said to be unchanged is re-read and compared
(--audit).

  vmstream backup --since web01.tar web01.vmx > web01+1.tar
  vmstream backup --track --index-out sdb.json /dev/sdb > sdb.tar
  vmstream backup --since sdb.json /dev/sdb > sdb+1.tar`

func newBackup(a *app) *cobra.Command {
	o := &backupOptions{}
	c := &cobra.Command{
		Use: "backup [flags] [VM|DISK]", Short: "Write a VM or a disk to stdout as a stream",
		Long: longBackup + "\n\n" + exitCodes,
		RunE: func(c *cobra.Command, args []string) error {
			return backUp(c, a, o, args)
		},
	}
	o.add(c)
	return c
}

// backUp takes the one argument there has to be, or none if QEMU knows the VM.
func backUp(c *cobra.Command, a *app, o *backupOptions, args []string) error {
	if len(args) == 0 && o.snapshot.qmp.socket != "" { // which may come from the environment
		args = []string{""}
	}
	if err := cobra.ExactArgs(1)(c, args); err != nil {
		return err
	}
	return runBackup(c.Context(), a, o, args[0])
}

func (o *backupOptions) add(c *cobra.Command) {
	f := c.Flags()
	o.codec.add(c)
	o.resources.add(c)
	o.snapshot.add(c)
	o.hooks.add(c)
	o.tracking.add(c)
	o.store.add(c)
	f.Var(&o.extent, "extent-size", "disk that one extent of the stream covers, a multiple of 64K from 1M to 1G (0: 64M, and more for disks above 1 TiB that need it)")
	f.StringArrayVar(&o.source.Disks, "disk", nil, "back up only the disk with this key, such as scsi0:0; may be repeated")
	f.StringVar(&o.source.Name, "name", "", "name of the VM in the stream")
	f.StringVar(&o.id, "id", "", "id of the backup (a random one if empty)")
	f.StringVar(&o.time, "time", "", "time of the backup, as 2006-01-02T15:04:05Z (now if empty)")
	f.StringVar(&o.consistency, "consistency", "", "what the stream says of the disks' state: crash, filesystem, application, powered-off")
	f.StringVar(&o.indexOut, "index-out", "", "write the index to this file too")
	f.StringVar(&o.since, "since", "", "write an increment on the backup in this file or target, a stream or an index")
	f.BoolVar(&o.source.NoLogs, "no-logs", false, "leave the VM's log files out")
	f.BoolVar(&o.source.AllowInUse, "allow-in-use", false, "take locks and open files for leftovers, or back up what changes meanwhile")
	f.BoolVar(&o.source.AllowOutside, "allow-outside", false, "let a VM have disks outside its directory and /vmfs/volumes, and descriptors name files outside theirs, and devices")
	f.BoolVar(&o.source.PadShort, "pad-short", false, "fill up flat files that are too short, and a last part of a sector, with zeros")
	f.BoolVar(&o.source.SkipFree, "skip-free", false, "leave out what the file systems on the disks do not use: ext2, ext3, ext4, XFS, NTFS, FAT (not with --since)")
	f.BoolVar(&o.source.ReadUnmapped, "read-unmapped", false, "read also what thin LUNs say that holds nothing")
	addSourceFormat(c, &o.sourceFormat)
	o.volumes.add(c)
	complete(c, "consistency", consistencies())
}

func consistencies() []string {
	return []string{string(stream.Crash), string(stream.Filesystem), string(stream.Application), string(stream.PoweredOff)}
}

// streamOptions turns flags into the options of the stream.
func (o *backupOptions) streamOptions(a *app) (stream.Options, error) {
	so := stream.Options{
		ID: o.id, Created: time.Now(), Tool: "vmstream " + Version(), Consistency: stream.Consistency(o.consistency),
		ExtentBytes: int64(o.extent), Codec: o.codec.spec, Workers: o.resources.workers, MemoryBytes: int64(o.resources.memory),
		Counters: new(stream.Counters), Warn: a.console.Warn,
	}
	if err := errors.Join(o.codec.validate(), o.resources.validate(), checkSourceFormat(o.sourceFormat)); err != nil {
		return so, cli.Usage(err)
	}
	if o.extent != 0 && o.extent < stream.MinExtentBytes || o.extent > stream.MaxExtentBytes || o.extent%vmdk.GrainBytes != 0 {
		return so, cli.Usage(fmt.Errorf("--extent-size %s: a multiple of 64K from 1M to 1G", &o.extent))
	}
	if err := o.tracking.validate(o.extent); err != nil {
		return so, err
	}
	if err := stream.CheckMemory(&so); err != nil {
		return so, cli.Usage(err)
	}
	if o.consistency != "" && !slices.Contains(consistencies(), o.consistency) {
		return so, cli.Usage(fmt.Errorf("--consistency %q: one of %v", o.consistency, consistencies()))
	}
	if o.id == "" {
		so.ID = newID()
	} else if !stream.ValidID(o.id) {
		return so, cli.Usage(fmt.Errorf("--id %q: up to %d letters, digits and . _ : + -", o.id, stream.MaxIDBytes))
	}
	if o.time != "" {
		var err error
		if so.Created, err = time.Parse(time.RFC3339, o.time); err != nil {
			return so, cli.Usage(fmt.Errorf("--time %q: write it like 2006-01-02T15:04:05Z", o.time))
		}
	}
	return so, nil
}

// newID returns a random UUID.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// writesItself reports if out is one of the files.
func writesItself(out any, files []string) bool {
	for _, name := range files {
		f, err := disk.OpenRegular(name)
		if err != nil {
			continue // a device, or nothing that could be stdout
		}
		same := sameFile(out, f)
		_ = f.Close() // only read
		if same {
			return true
		}
	}
	return false
}

// reportBackup tells what was written; snap is nil if it was made of streams.
func reportBackup(a *app, res *stream.Result, snap *snapshot.Snapshot, n *stream.Counters, took time.Duration, auditedBytes int64, places []pipeline.PlaceResult) {
	var stored int64
	for _, d := range res.Index.Disks {
		stored += d.StoredBytes
	}
	total := n.Total.Load()
	e := cli.Event{
		"id": res.Opening.ID, "name": res.Opening.Name, "disks": len(res.Index.Disks), "files": len(res.Opening.Files),
		"source_bytes": total, "stored_bytes": stored, "tar_bytes": res.TarBytes, "stream_bytes": res.OutBytes,
		"zero_bytes": n.Zero.Load(), "seconds": took.Seconds(), "warnings": a.console.Warnings(), "consistency": res.Opening.Consistency,
		"audited_bytes": auditedBytes,
	}
	if len(places) > 0 {
		e["targets"] = targetEvents(places)
	}
	if snap != nil {
		e["snapshot"], e["stall_seconds"], e["snapshot_seconds"] = snap.Provider, snap.Stall.Seconds(), snap.Lifetime().Seconds()
	}
	a.console.Say("summary", e, "vmstream: backed up %s: %s of disks and files, %.0f %% zero, %s stream in %s", res.Opening.Name, cli.Bytes(total),
		cli.Percent(n.Zero.Load(), total), cli.Bytes(res.OutBytes), cli.Duration(took))
}

// writeFile writes a small file whole or not at all.
func writeFile(path string, b []byte) error { return wholefile.Write(path, b, 0o644) }
