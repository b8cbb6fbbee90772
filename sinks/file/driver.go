// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package file stores objects as files in a directory. A file is written under a
// temporary name beside its place, and gets its own when all of it is on the disk.
package file

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vmstream/vmstream/sinks"
)

var capabilities = sinks.Capabilities{
	Read: true, Range: true, Stat: true, List: true, Delete: true, Resume: true, Orphans: true,
	Atomic: true, Exclusive: true, Concurrent: true,
}

var options = []sinks.Option{
	{Name: "mode", Usage: "permissions of new files, octal", Default: "0600"},
	{Name: "split", Usage: "store pieces of this length, such as 2G, for media with limits"},
	{Name: "mkdir", Usage: "1: make directories that are missing", Default: "0"},
}

type driver struct{}

// Driver returns the driver of file:///path and file:path.
func Driver() sinks.Driver { return driver{} }

func (driver) Describe() sinks.Description {
	return sinks.Description{
		Scheme: "file", Summary: "files in a directory", Form: "file:///PATH or file:PATH",
		Options: options, Capabilities: capabilities,
	}
}

// Open takes the directory that the target is in as the sink's root. It need not be
// there yet.
func (driver) Open(_ context.Context, t sinks.Target, _ *slog.Logger) (sinks.Sink, string, error) {
	path, given, err := parse(t)
	if err != nil {
		return nil, "", err
	}
	s := &sink{mode: 0o600}
	if v, ok := given["mode"]; ok {
		mode, err := strconv.ParseUint(v, 8, 32)
		if err != nil || mode > 0o777 || mode&0o600 != 0o600 {
			return nil, "", fmt.Errorf("file target: mode=%s: write an octal number from 0600 to 0777 that lets the owner read and write: %w", v, sinks.ErrTarget)
		}
		s.mode = os.FileMode(mode)
	}
	switch given["mkdir"] {
	case "", "0":
	case "1":
		s.mkdir = true
	default:
		return nil, "", fmt.Errorf("file target: mkdir=%s: write 0 or 1: %w", given["mkdir"], sinks.ErrTarget)
	}
	dir, key := filepath.Split(path)
	if key == "." || key == ".." {
		dir, key = path, ""
	}
	if s.split, err = parseSplit(given["split"]); err != nil {
		return nil, "", err
	}
	if s.dir, err = filepath.Abs(dir); err != nil {
		return nil, "", err
	}
	return s, key, nil
}

// parse returns the path and the options. A path behind file: has its percent signs
// escaped as one behind file:// has.
func parse(t sinks.Target) (string, map[string]string, error) {
	if strings.HasPrefix(t.Rest, "//") {
		host, path, given, err := t.URL(options)
		switch {
		case err != nil:
			return "", nil, err
		case host != "" && host != "localhost":
			return "", nil, fmt.Errorf("file target: host %q: write file:///PATH: %w", host, sinks.ErrTarget)
		}
		return checked(path, given)
	}
	escaped, query, _ := strings.Cut(t.Rest, "?")
	path, err := url.PathUnescape(escaped)
	if err != nil {
		return "", nil, fmt.Errorf("file target: %w: %w", err, sinks.ErrTarget)
	}
	given, err := sinks.ParseOptions(t.Scheme, query, options)
	if err != nil {
		return "", nil, err
	}
	return checked(path, given)
}

func checked(path string, given map[string]string) (string, map[string]string, error) {
	if path == "" || strings.ContainsRune(path, 0) {
		return "", nil, fmt.Errorf("file target: no path: %w", sinks.ErrTarget)
	}
	return path, given, nil
}

// minSplit is the least length of pieces: more than that are of no use on any medium.
const minSplit = 1 << 20

// parseSplit reads a number of bytes with K, M, G or T behind it, which are powers of
// 1024.
func parseSplit(v string) (int64, error) {
	if v == "" {
		return 0, nil
	}
	digits, shift := v, uint(0)
	if i := strings.IndexByte("KMGT", v[len(v)-1]); i >= 0 {
		digits, shift = v[:len(v)-1], uint(i+1)*10
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > (1<<62)>>shift || n<<shift < minSplit {
		return 0, fmt.Errorf("file target: split=%s: write a length from 1M on, such as 2G: %w", v, sinks.ErrTarget)
	}
	return n << shift, nil
}
