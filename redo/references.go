// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

var quotedValue = regexp.MustCompile(`"([^"\r\n]*)"`)

// Referrers returns the configurations and snapshot lists beside the level at
// path that name it.
func Referrers(path string) ([]string, error) { return referrers(path, "") }

// referrers returns the configurations and snapshot lists in the directory of
// path, but for the one called except, that have a value with its base name.
func referrers(path, except string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	if except != "" {
		if except, err = realPath(except); err != nil {
			return nil, err
		}
	}
	var found []string
	for _, e := range entries {
		name := filepath.Join(filepath.Dir(path), e.Name())
		switch strings.ToLower(filepath.Ext(e.Name())) {
		case ".vmx", ".cfg", ".vmsd":
		default:
			continue
		}
		if !e.Type().IsRegular() || name == except {
			continue
		}
		if has, err := names(name, filepath.Base(path)); err != nil {
			return nil, err
		} else if has {
			found = append(found, name)
		}
	}
	return found, nil
}

// maxConfigBytes is as much of a configuration as is read.
const maxConfigBytes = 4 << 20

// names reports if a value of the configuration is a path that ends in base.
func names(config, base string) (bool, error) {
	f, err := disk.OpenRegular(config)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(f, maxConfigBytes))
	if err != nil {
		return false, err
	}
	for _, m := range quotedValue.FindAllSubmatch(b, -1) {
		value := bytes.ReplaceAll(m[1], []byte(`\`), []byte("/"))
		if i := bytes.LastIndexAny(value, "/:"); i >= 0 {
			value = value[i+1:]
		}
		if string(value) == base {
			return true, nil
		}
	}
	return false, nil
}

// list joins the base names of paths for a message.
func list(paths []string) string {
	var b []string
	for _, p := range paths {
		b = append(b, filepath.Base(p))
	}
	slices.Sort(b)
	return strings.Join(b, ", ")
}
