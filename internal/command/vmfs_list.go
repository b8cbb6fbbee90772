// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/vmfs"
)

const longVMFSList = `Ls lists a directory of a volume, or one file: with -l also mode, size, what is stored of
it, time, and of symbolic links and raw device mappings where they lead. -M lists raw
device mappings only. What is damaged is told on stderr, and the rest listed all the same
(exit code 5).

  vmstream vmfs ls -l /dev/sdb!/web01`

// vmfsEntry is a line of vmfs ls and vmfs stat with --json. docs/scripting.md has it.
type vmfsEntry struct {
	Path        string     `json:"path"`
	Type        string     `json:"type"`
	SizeBytes   int64      `json:"size_bytes"`
	StoredBytes int64      `json:"stored_bytes"` // blocks that it has
	TBZBytes    int64      `json:"tbz_bytes"`    // of these, blocks that are not zeroed yet
	Mode        string     `json:"mode"`
	UID         uint32     `json:"uid"`
	GID         uint32     `json:"gid"`
	Modified    string     `json:"modified"`
	Descriptor  string     `json:"descriptor"` // address
	Generation  uint32     `json:"generation"`
	Links       uint32     `json:"links"`
	AddrType    uint32     `json:"address_type"`
	Target      string     `json:"target,omitempty"` // of a symbolic link
	LUN         *vmfsLUN   `json:"lun,omitempty"`    // of a raw device mapping
	Lock        *vmfs.Lock `json:"lock,omitempty"`   // if somebody holds it, or has left it
}

type vmfsLUN struct {
	vmfs.DiskID
	ID string `json:"id"` // in hexadecimal
}

type vmfsListFlags struct {
	vmfsFlags
	long, human, recursive, mappings bool
}

func newVMFSList(a *app) *cobra.Command {
	var v vmfsListFlags
	c := &cobra.Command{
		Use: "ls [flags] VOLUME[!/PATH]", Short: "List a directory of a volume",
		Long: longVMFSList + "\n\n" + exitCodes, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return runVMFSList(a, &v, args[0]) },
	}
	v.add(c)
	f := c.Flags()
	f.BoolVarP(&v.long, "long", "l", false, "tell more of each file")
	f.Bool("help", false, "help for ls") // -h is taken
	f.BoolVarP(&v.human, "human", "h", false, "print sizes as 1.5 GiB")
	f.BoolVarP(&v.recursive, "recursive", "R", false, "list what is below, too")
	f.BoolVarP(&v.mappings, "mappings", "M", false, "list raw device mappings only")
	return c
}

func runVMFSList(a *app, v *vmfsListFlags, spec string) error {
	f, name, err := v.open(spec)
	if err != nil {
		return err
	}
	defer f.close()
	l := &vmfsLister{a: a, v: v, f: f}
	fi, err := f.Lstat(name)
	if err != nil {
		return cli.Source(err)
	}
	if !fi.IsDir() {
		l.add(name, fi)
	} else {
		l.directory(name)
	}
	if err := l.print(); err != nil {
		return err
	}
	if len(l.errs) > 0 {
		return cli.Source(errors.Join(l.errs...))
	}
	return a.done()
}

type vmfsLister struct {
	a    *app
	v    *vmfsListFlags
	f    *vmfsVolume
	all  []vmfsEntry
	errs []error
}

func (l *vmfsLister) directory(name string) {
	entries, err := l.f.ReadDir(name)
	if err != nil {
		l.errs = append(l.errs, err)
	}
	for _, e := range entries {
		below := path.Join(name, e.Name())
		fi, err := e.Info()
		if err != nil {
			l.errs = append(l.errs, &fs.PathError{Op: "stat", Path: below, Err: err})
			continue
		}
		l.add(below, fi)
		if fi.IsDir() && l.v.recursive {
			l.directory(below)
		}
	}
}

func (l *vmfsLister) add(name string, fi fs.FileInfo) {
	if s := fi.Sys().(*vmfs.Stat); l.v.mappings && s.Type != vmfs.RawDevice {
		return
	}
	e, err := describeVMFSFile(l.f, name, fi)
	if err != nil {
		l.errs = append(l.errs, err)
	}
	l.all = append(l.all, e)
}

func describeVMFSFile(f *vmfsVolume, name string, fi fs.FileInfo) (vmfsEntry, error) {
	s := fi.Sys().(*vmfs.Stat)
	e := vmfsEntry{
		Path: "/" + name, Type: s.Type.String(), SizeBytes: s.SizeBytes, StoredBytes: int64(s.Units) * s.UnitBytes, TBZBytes: int64(s.TBZ) * s.UnitBytes,
		Mode: fi.Mode().String(), UID: s.UID, GID: s.GID, Modified: s.Modified.Format(time.RFC3339), Descriptor: fmt.Sprintf("0x%08x", s.Address),
		Generation: s.Generation, Links: s.Links, AddrType: s.AddrType,
	}
	if name == "." {
		e.Path = "/"
	}
	if s.RDM != nil {
		e.LUN = &vmfsLUN{DiskID: *s.RDM, ID: s.RDM.Hex()}
	}
	if s.Lock.Mode != vmfs.Unlocked {
		e.Lock = &s.Lock
	}
	var err error
	if s.Type == vmfs.Symlink {
		e.Target, err = f.ReadLink(name)
	}
	return e, err
}

func (l *vmfsLister) print() error {
	if l.a.console.JSON {
		for _, e := range l.all {
			if err := l.a.printJSON(e); err != nil {
				return err
			}
		}
		return nil
	}
	return l.a.printText(func(w io.Writer) error {
		t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		for _, e := range l.all {
			l.line(t, &e)
		}
		return t.Flush()
	})
}

func (l *vmfsLister) line(w io.Writer, e *vmfsEntry) {
	if !l.v.long {
		fmt.Fprintln(w, e.Path)
		return
	}
	size := func(n int64) string {
		if l.v.human {
			return cli.Bytes(n)
		}
		return fmt.Sprint(n)
	}
	leads := ""
	switch {
	case e.Target != "":
		leads = " -> " + e.Target
	case e.LUN != nil:
		leads = " -> LUN " + e.LUN.String()
	}
	if e.Lock != nil {
		leads += fmt.Sprintf(" (lock: %v, %v)", e.Lock.Mode, e.Lock.Owner)
	}
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s%s\n", e.Mode, e.Type, size(e.SizeBytes), size(e.StoredBytes-e.TBZBytes), e.Modified, e.Path, leads)
}
