// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package remote

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/sums"
)

// sendScript takes a tar on stdin and makes the directory $d of it, whole or not
// at all: what arrives is collected in $s beside it and checked against the
// SHA256SUMS that come last. Of what was there only a directory with SHA256SUMS
// is replaced, and who is told to stop while one takes the place of the other ends
// that first. It is one line, since a login shell that is no POSIX shell may
// have to hand it on.
const sendScript = `umask 077; ` +
	`fail() { echo "$1" >&2; exit 1; }; ` +
	`trap 'rm -rf "$s"' EXIT; trap 'exit 1' HUP INT TERM; ` +
	`mkdir -p "$p" && mkdir "$s" || fail "no directory for the backup"; ` +
	`tar -xf - -C "$s" || fail "the files could not be written"; ` +
	`test -f "$s/SHA256SUMS" || fail "not everything has arrived"; ` +
	`if command -v sha256sum >/dev/null; then (cd "$s" && sha256sum -c SHA256SUMS >/dev/null) || fail "what has arrived is damaged"; fi; ` +
	`trap '' HUP INT TERM; ` +
	`if test -e "$d"; then test -f "$d/SHA256SUMS" || fail "$d exists and was not made by vmsnap"; mv "$d" "$o" || fail "$d could not be replaced"; fi; ` +
	`mv "$s" "$d" || { test ! -e "$o" || mv "$o" "$d"; fail "$d could not be made"; }; ` +
	`rm -rf "$o"; exit 0`

// Send makes the files of the directory at local, which has SHA256SUMS, the
// directory dir of host. It appears there complete and checked, or not at all.
func Send(ctx context.Context, host, dir, local string) error {
	if err := errors.Join(CheckHost(host), CheckDir(dir)); err != nil {
		return err
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails, see crypto/rand
	dir = strings.TrimRight(dir, "/")
	parent, stage := "", ".vmstream-send-"+hex.EncodeToString(id[:])
	if i := strings.LastIndexByte(dir, '/'); i >= 0 {
		parent, stage = dir[:i+1], dir[:i+1]+stage
	} else {
		parent, dir, stage = ".", "./"+dir, "./"+stage
	}
	vars := fmt.Sprintf("d=%s; p=%s; s=%s; o=%s; ", quote(dash(dir)), quote(dash(parent)), quote(dash(stage)), quote(dash(stage+".old")))
	c, said := command(ctx, host, vars+sendScript)
	stdin, err := c.StdinPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return failed(ctx, host, err, said)
	}
	stop := closeOnDone(ctx, stdin)
	werr := pack(ctx, stdin, local)
	stop()
	cerr := stdin.Close()
	err = c.Wait()
	switch {
	case err != nil && (werr == nil || errors.Is(werr, syscall.EPIPE) || ctx.Err() != nil):
		return failed(ctx, host, err, said)
	case werr != nil:
		return werr
	case cerr != nil && !errors.Is(cerr, os.ErrClosed):
		return cerr
	}
	return ctx.Err()
}

// dash keeps commands from taking a name for an option.
func dash(name string) string {
	if strings.HasPrefix(name, "-") {
		return "./" + name
	}
	return name
}

// pack writes the files of a directory as a tar, SHA256SUMS last.
func pack(ctx context.Context, w io.Writer, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		if e.Name() != sums.Name {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	tw := tar.NewWriter(w)
	for _, name := range append(names, sums.Name) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := packFile(tw, filepath.Join(dir, name), name); err != nil {
			return err
		}
	}
	return tw.Close()
}

func packFile(tw *tar.Writer, path, name string) (err error) {
	f, err := disk.OpenRegular(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: st.Size(), Mode: int64(st.Mode().Perm()), ModTime: st.ModTime()}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(tw, io.LimitReader(f, st.Size()))
	if err == nil && n < st.Size() {
		err = fmt.Errorf("%s: it has become shorter while it was sent: %w", path, disk.ErrTruncated)
	}
	return err
}
