// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/vm"
)

func FuzzConfig(f *testing.F) {
	files, err := filepath.Glob(filepath.Join(testenv.Corpus(f, "vmdk/vmx"), "*.vmx"))
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, "displayName", "x|y\"z")
	}
	f.Add([]byte(".encoding = windows-1252\r\nscsi0:0.name = vmhba0:0:0:1:\xfc.dsk\r\nscsi0:0.present=TRUE"), "scsi0:0.name", "ü")
	f.Add([]byte("\ufeffa = \"b\"#c\nA = \"\n??"), "A", "")
	f.Fuzz(func(t *testing.T, b []byte, key, value string) {
		c, err := vm.ParseConfig(b)
		if err != nil {
			checkFormatError(t, err)
			return
		}
		for _, k := range c.Keys() {
			v, ok := c.Get(k)
			if !ok || !utf8.ValidString(v) {
				t.Fatalf("%s: %q, %v", k, v, ok)
			}
		}
		checkSafeName(t, vm.SafeName(c.DisplayName()))
		checkMessages(t, c.Warnings())
		refs, warnings, err := c.Disks()
		if err != nil {
			checkFormatError(t, err)
		}
		checkMessages(t, warnings)
		for i, r := range refs {
			if i > 0 && r.Key == refs[i-1].Key || r.File.Base == "" || strings.ContainsAny(r.File.Base, "\x00/") || r.File.Base == ".." {
				t.Fatalf("disk %+v", r)
			}
		}
		checkFuzzedEdit(t, c, b, key, value)
	})
}

// checkFuzzedEdit sets one key: it reads back, and nothing else changes.
func checkFuzzedEdit(t *testing.T, c *vm.Config, b []byte, key, value string) {
	same, err := c.Edit(nil)
	if err != nil || string(same) != string(b) {
		t.Fatalf("without a change: %q, %v", same, err)
	}
	edited, err := c.Edit(map[string]string{key: value})
	if err != nil {
		checkFormatError(t, err)
		return
	}
	again, err := vm.ParseConfig(edited)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := again.Get(key); !ok || got != value {
		t.Fatalf("%s: %q, want %q", key, got, value)
	}
	keys := c.Keys()
	for _, k := range keys {
		before, _ := c.Get(k)
		if after, ok := again.Get(k); !strings.EqualFold(k, key) && (!ok || after != before) {
			t.Fatalf("%s: %q became %q", k, before, after)
		}
	}
	if n := len(again.Keys()); n != len(keys) && (n != len(keys)+1 || slices.Contains(keys, key)) {
		t.Fatalf("%d keys became %d", len(keys), n)
	}
}

func FuzzSnapshots(f *testing.F) {
	f.Add([]byte(twoSnapshots))
	f.Add([]byte(""))
	f.Add([]byte("snapshot0.uid = 1\nsnapshot0.parent = 1\nsnapshot.numSnapshots = 99999999999999999999\nsnapshot0.disk7.node = x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := vm.ParseSnapshots(b)
		if err != nil {
			checkFormatError(t, err)
			return
		}
		checkMessages(t, s.Warnings)
		for _, snap := range s.List {
			if snap.UID <= 0 || snap.ParentUID < 0 || !utf8.ValidString(snap.DisplayName+snap.Description+snap.File) {
				t.Fatalf("snapshot %+v", snap)
			}
			if _, err := snap.Created.MarshalJSON(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func checkFormatError(t *testing.T, err error) {
	t.Helper()
	var fe *disk.FormatError
	if !errors.As(err, &fe) || fe.Err == nil || strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Fatalf("%q is no good error", err)
	}
}

// checkMessages wants messages on one line that a terminal can show.
func checkMessages(t *testing.T, messages []string) {
	t.Helper()
	for _, m := range messages {
		if !utf8.ValidString(m) || strings.ContainsAny(m, "\n\r\x1b\x00") {
			t.Fatalf("%q is no good message", m)
		}
	}
}
