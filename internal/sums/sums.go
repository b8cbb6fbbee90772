// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package sums writes and checks the SHA256SUMS of a directory of files, in the
// format of coreutils: "sha256sum -c SHA256SUMS" checks them too.
package sums

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/vmstream/vmstream/disk"
)

// Name is what the file is called.
const Name = "SHA256SUMS"

// maxBytes bounds the file: 32,769 segments with names of 200 bytes.
const maxBytes = 16 << 20

// Entry is a line.
type Entry struct {
	Name   string
	SHA256 [sha256.Size]byte
}

// Make computes the digests of all regular files of a directory, sorted by name.
func Make(ctx context.Context, dir string) ([]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() && e.Name() != Name {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	digests, err := digestAll(ctx, dir, names)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for i, name := range names {
		fmt.Fprintf(&b, "%x  %s\n", digests[i], name)
	}
	if _, err := Parse(b.Bytes()); err != nil { // a name that cannot stand in a line
		return nil, err
	}
	return b.Bytes(), nil
}

// Check compares the files of a directory with its SHA256SUMS. It reports false
// if there are none. A file that is missing or differs is disk.ErrMismatch.
// Files that are not listed do not matter.
func Check(ctx context.Context, dir string) (bool, error) {
	list, err := Read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	names := make([]string, len(list))
	for i := range list {
		names[i] = list[i].Name
	}
	digests, err := digestAll(ctx, dir, names)
	if errors.Is(err, fs.ErrNotExist) {
		return true, fmt.Errorf("a file that %s lists is missing: %w: %w", Name, disk.ErrMismatch, err)
	}
	if err != nil {
		return true, err
	}
	for i := range list {
		if digests[i] != list[i].SHA256 {
			return true, fmt.Errorf("%s: its content is not what %s says: %w", filepath.Join(dir, list[i].Name), Name, disk.ErrMismatch)
		}
	}
	return true, nil
}

// Read returns the lines of the SHA256SUMS in a directory.
func Read(dir string) ([]Entry, error) {
	f, err := disk.OpenRegular(filepath.Join(dir, Name))
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	list, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, Name), err)
	}
	return list, nil
}

// Parse returns the lines of a SHA256SUMS whose names are files of one
// directory, each once.
func Parse(b []byte) ([]Entry, error) {
	if len(b) > maxBytes {
		return nil, lineError(0, disk.ErrUnsupported, "more than %d bytes", maxBytes)
	}
	var list []Entry
	seen := map[string]bool{}
	number := 0
	for line := range strings.Lines(string(b)) {
		number++
		line, whole := strings.CutSuffix(line, "\n")
		digest, name, ok := strings.Cut(line, " ")
		var e Entry
		switch {
		case !whole:
			return nil, lineError(number, disk.ErrTruncated, "it does not end")
		case !ok || len(digest) != 2*sha256.Size || len(name) < 2 || name[0] != ' ' && name[0] != '*':
			return nil, lineError(number, disk.ErrCorrupt, "not a digest, two characters and a name")
		}
		if _, err := hex.Decode(e.SHA256[:], []byte(digest)); err != nil {
			return nil, lineError(number, disk.ErrCorrupt, "no digest: %v", err)
		}
		e.Name = name[1:]
		if e.Name == "." || e.Name == ".." || e.Name == Name || strings.ContainsFunc(e.Name, func(r rune) bool { return r == '/' || r == '\\' || r < ' ' }) {
			return nil, lineError(number, disk.ErrOutside, "%q is no name of a file beside it", e.Name)
		}
		if seen[e.Name] {
			return nil, lineError(number, disk.ErrCorrupt, "%q stands there twice", e.Name)
		}
		seen[e.Name] = true
		list = append(list, e)
	}
	return list, nil
}

func lineError(number int, kind error, format string, args ...any) error {
	return &disk.FormatError{Format: Name, Field: fmt.Sprintf("line %d", number), Offset: -1, Err: kind, Detail: fmt.Sprintf(format, args...)}
}

// digestAll computes the digests of files, several at a time.
func digestAll(ctx context.Context, dir string, names []string) ([][sha256.Size]byte, error) {
	out := make([][sha256.Size]byte, len(names))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range names {
		g.Go(func() error {
			var err error
			out[i], err = digest(ctx, filepath.Join(dir, name))
			return err
		})
	}
	return out, g.Wait()
}

func digest(ctx context.Context, path string) (sum [sha256.Size]byte, err error) {
	f, err := disk.OpenRegular(path)
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	buf := make([]byte, 256<<10)
	for {
		if ctx.Err() != nil {
			return sum, context.Cause(ctx)
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return [sha256.Size]byte(h.Sum(nil)), nil
		}
		if err != nil {
			return sum, err
		}
	}
}
