// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package remote

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// maxFiles bounds how many files are taken: a VM has some dozens, and a disk of
// 64 TiB in segments 32,769.
const maxFiles = 1 << 17

// Fetch puts the files of the directory dir of host into the existing, empty
// directory local. Directories in it are left out. If it fails, what is in local
// is not to be used.
func Fetch(ctx context.Context, host, dir, local string) error {
	if err := errors.Join(CheckHost(host), CheckDir(dir)); err != nil {
		return err
	}
	c, said := command(ctx, host, "cd "+quote(dash(dir))+" && exec tar -cf - .")
	stdout, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return failed(ctx, host, err, said)
	}
	stop := closeOnDone(ctx, stdout)
	uerr := unpack(ctx, stdout, local)
	if uerr == nil { // to the end, so that tar does not fail
		_, uerr = io.Copy(io.Discard, stdout)
	}
	stop()
	if uerr != nil {
		_ = stdout.Close() // so that ssh ends
	}
	err = c.Wait()
	if err != nil && (endedEarly(uerr) || ctx.Err() != nil) {
		return failed(ctx, host, err, said)
	}
	if uerr != nil {
		return fmt.Errorf("ssh %s: %w", host, uerr)
	}
	return ctx.Err()
}

// endedEarly reports if err, which may be nil, is what the end of ssh brings.
func endedEarly(err error) bool {
	return err == nil || errors.Is(err, disk.ErrTruncated) || errors.Is(err, os.ErrClosed)
}

// unpack writes the regular files of a tar to dir. What comes from another host
// is not trusted: names are single components, and nothing is replaced.
func unpack(ctx context.Context, r io.Reader, dir string) error {
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF) && n == 0:
			return fmt.Errorf("nothing has come: %w", disk.ErrTruncated)
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("what has come ends early: %w", disk.ErrTruncated)
		case errors.Is(err, tar.ErrHeader):
			return fmt.Errorf("what has come is no tar: %w", disk.ErrCorrupt)
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case n >= maxFiles:
			return fmt.Errorf("more than %d files have come: %w", maxFiles, disk.ErrUnsupported)
		}
		if isSparse(h) { // a few bytes could stand for any number
			return fmt.Errorf("%q has come as a sparse file: %w", h.Name, disk.ErrUnsupported)
		}
		name := strings.TrimPrefix(h.Name, "./")
		if h.Typeflag != tar.TypeReg || strings.HasSuffix(h.Name, "/") {
			continue
		}
		if strings.ContainsAny(name, "/\x00") || name == "" || name == "." || name == ".." {
			if strings.Contains(strings.Trim(name, "/"), "/") && filepath.IsLocal(name) {
				continue // of a directory below
			}
			return fmt.Errorf("a file called %q has come: %w", h.Name, disk.ErrOutside)
		}
		if err := unpackFile(tr, filepath.Join(dir, name), h); err != nil {
			return err
		}
	}
}

func isSparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

func unpackFile(r io.Reader, path string, h *tar.Header) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(h.Mode)&0o700|0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%s: what has come ends early: %w", filepath.Base(path), disk.ErrTruncated)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Chtimes(path, h.ModTime, h.ModTime)
	}
	return err
}
