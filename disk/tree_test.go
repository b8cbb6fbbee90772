// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestOSDirectory keeps names inside a directory, and opens what is there.
func TestOSDirectory(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"in/sub", "out"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"in/a": "1234", "in/sub/b": "12", "out/c": "1"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"in/inside": "sub/b", "in/outside": "../out/c"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	d, err := OS().OpenDir(filepath.Join(dir, "in"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for name, size := range map[string]int64{"a": 4, "sub/b": 2, "inside": 2, "outside": -1, "../out/c": -1, "none": -1, "sub": -1} {
		f, err := d.Open(name)
		switch {
		case err != nil && size >= 0, err == nil && (f.Size() != size || f.Device()):
			t.Errorf("%s: %v", name, err)
		case err == nil && size < 0:
			t.Errorf("%s is opened", name)
		}
		if err == nil {
			_ = f.Close()
		}
	}
	seen := 0
	for e, err := range d.Entries() {
		if err != nil {
			t.Fatal(err)
		}
		if st, err := d.Lstat(e.Name()); err != nil || st.Mode().Type() != e.Type() {
			t.Errorf("%s: %v, %v", e.Name(), st, err)
		}
		seen++
	}
	if seen != 4 {
		t.Errorf("%d entries", seen)
	}
	if _, err := OS().OpenDir(filepath.Join(dir, "in/a")); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a file as a directory: %v", err)
	}
	if _, err := ReadDir(OS(), filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	all, err := ReadDir(OS(), filepath.Join(dir, "in"))
	if err != nil || len(all) != 4 || all[0].Name() != "a" || all[3].Name() != "sub" {
		t.Errorf("%v, %v", all, err)
	}
}
