// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/vmstream/vmstream/redo"
	"github.com/vmstream/vmstream/vmdk"
)

// The measured redo log has pieces of this size, in random order, of an eighth
// of the disk.
const (
	redoPieceBytes = 256 << 10
	redoShare      = 8
	commitRatio    = 1.3 // of the time that qemu-img commit takes
)

// redoCommit measures the commit of a redo log into a flat disk, and QEMU's
// commit of an overlay with the same pieces into the same disk.
func (b *bench) redoCommit(ctx context.Context) (row, error) {
	pieces := redoPieces(b.diskBytes)
	for _, make := range []func(context.Context, []int64) error{b.makeRedo, b.makeOverlay} {
		if err := make(ctx, pieces); err != nil && !errors.Is(err, errNoTool) {
			return row{}, err
		}
	}
	ours := cand{
		title: "vmstream redo commit base.vmdk", pipe: pipe(b.cmd("redo", "commit", b.path("redo/base.vmdk"))),
		before: b.restoreFiles("redo", "redo-kept"), limits: []limit{{rssMiB, smallRSS}},
	}
	qemu := func(format string) cand {
		return cand{
			title: "qemu-img commit overlay." + format,
			pipe:  pipe([]string{"qemu-img", "commit", "-q", "-f", format, b.path("overlay/overlay." + format)}),
			needs: []string{"qemu-img", "qemu-io"}, before: b.restoreFiles("overlay", "overlay-kept"),
			limits: []limit{{wallRatio, commitRatio}},
		}
	}
	return row{
		title: fmt.Sprintf("commit a redo log with %d MiB into a flat disk", int64(len(pieces))*redoPieceBytes>>20),
		cands: []cand{ours, qemu("qcow2"), qemu("vmdk")},
	}, nil
}

// redoPieces returns where pieces are written, in the order of writing.
func redoPieces(diskBytes int64) []int64 {
	n := int(diskBytes / redoPieceBytes)
	var at []int64
	for _, i := range rand.New(rand.NewPCG(4, 2)).Perm(n)[:n/redoShare] {
		at = append(at, int64(i)*redoPieceBytes)
	}
	return at
}

// makeFlat makes the base, the same bytes for everybody.
func (b *bench) makeFlat(dir string, format vmdk.Format) error {
	if err := os.Mkdir(b.path(dir), 0o700); err != nil {
		return err
	}
	w, err := vmdk.Create(vmdk.CreateSpec{Format: format, Dir: b.path(dir), Name: "base.vmdk", SizeBytes: b.diskBytes, CID: 1})
	if err != nil {
		return err
	}
	in, err := os.Open(b.disk)
	if err != nil {
		return err
	}
	defer in.Close()
	if _, err := io.Copy(io.NewOffsetWriter(w, 0), in); err != nil {
		return err
	}
	return w.Close()
}

func piecePattern(i int) byte { return byte(i%251) + 1 }

// makeRedo makes a disk with a delta, as a guest would have filled it.
func (b *bench) makeRedo(ctx context.Context, pieces []int64) error {
	if err := b.makeFlat("redo", vmdk.FormatVMFS); err != nil {
		return err
	}
	added, err := redo.Add(ctx, b.path("redo/base.vmdk"), redo.AddOptions{})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(added.Files[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	u, err := vmdk.OpenUpdate(ctx, f, vmdk.UpdateSpec{Name: f.Name(), FileBytes: st.Size(), Fill: strings.NewReader("")})
	if err != nil {
		return err
	}
	p := make([]byte, redoPieceBytes)
	for i, at := range pieces {
		for k := range p {
			p[k] = piecePattern(i)
		}
		if _, err := u.WriteAt(p, at); err != nil {
			return err
		}
	}
	if err := errors.Join(u.Close(), f.Close()); err != nil {
		return err
	}
	return b.keepFiles("redo", "redo-kept", "base.vmdk", filepath.Base(added.Path), filepath.Base(added.Files[0]))
}

var errNoTool = errors.New("a program is missing")

// makeOverlay makes overlays of two formats with the same pieces over the same
// bytes.
func (b *bench) makeOverlay(ctx context.Context, pieces []int64) error {
	needs := cand{needs: []string{"qemu-img", "qemu-io"}}
	if needs.missing() != "" {
		return errNoTool
	}
	if err := b.makeFlat("overlay", vmdk.FormatVMFS); err != nil {
		return err
	}
	for _, format := range []string{"qcow2", "vmdk"} {
		file := b.path("overlay/overlay." + format)
		if _, err := pipe([]string{"qemu-img", "create", "-q", "-f", format, "-b", b.path("overlay/base.vmdk"), "-F", "vmdk", file}).run(ctx, false); err != nil {
			return err
		}
		args := []string{"qemu-io", "-f", format}
		for i, at := range pieces {
			args = append(args, "-c", fmt.Sprintf("write -q -P %d %d %d", piecePattern(i), at, redoPieceBytes))
			if len(args) >= 2000 || i == len(pieces)-1 {
				if _, err := pipe(append(args, file)).run(ctx, false); err != nil {
					return err
				}
				args = args[:3]
			}
		}
	}
	return b.keepFiles("overlay", "overlay-kept", "base.vmdk", "overlay.qcow2", "overlay.vmdk")
}

// keepFiles copies files that a commit changes or removes. The base is not
// among them: a second commit writes the same bytes to it.
func (b *bench) keepFiles(from, to string, names ...string) error {
	if err := os.Mkdir(b.path(to), 0o700); err != nil {
		return err
	}
	for _, n := range names {
		if err := copyFile(filepath.Join(b.path(from), n), filepath.Join(b.path(to), n)); err != nil {
			return err
		}
	}
	return nil
}

// restoreFiles puts the files back, durable, so that a run does not pay for them.
func (b *bench) restoreFiles(to, from string) func(context.Context) error {
	return func(context.Context) error {
		entries, err := os.ReadDir(b.path(from))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := copyFile(filepath.Join(b.path(from), e.Name()), filepath.Join(b.path(to), e.Name())); err != nil {
				return err
			}
		}
		return nil
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}
