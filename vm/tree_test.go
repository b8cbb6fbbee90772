// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/vm"
)

// tree makes a directory with files: names and contents. A name that ends in a
// slash is a directory, a content "-> x" a symbolic link.
func tree(tb testing.TB, files map[string]string) string {
	tb.Helper()
	dir, err := filepath.EvalSymlinks(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	for name, content := range files {
		p := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			tb.Fatal(err)
		}
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, p)
		} else if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(p, 0o755)
		} else {
			err = os.WriteFile(p, []byte(content), 0o600)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

// shorten cuts the directory off paths in messages.
func shorten(dir string, list []string) []string {
	out := make([]string, 0, len(list))
	for _, s := range list {
		out = append(out, strings.ReplaceAll(s, dir+"/", ""))
	}
	return out
}

// fileList gives files as "kind name", with + where they may grow.
func fileList(files []vm.File) []string {
	var list []string
	for _, f := range files {
		s := string(f.Kind) + " " + f.Name
		if f.MayGrow {
			s += "+"
		}
		list = append(list, s)
	}
	return list
}
