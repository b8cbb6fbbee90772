// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

// TestRewrite makes a sparse disk anew, and leaves the old one if that is not completed.
func TestRewrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "d.vmdk")
	content := make([]byte, 5<<20)
	copy(content[1<<20:], "data")
	spec := vmdk.CreateSpec{Format: vmdk.FormatSparse, Dir: dir, Name: "d.vmdk", SizeBytes: int64(len(content)), CID: 0x12345678, UUID: "60 00 c2 9a", DDB: []vmdk.Entry{{Key: "ddb.ours", Value: "kept"}}}
	w, err := vmdk.Create(spec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), os.Chmod(path, 0o644)); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	g := vmdk.Geometry{Cylinders: 9, Heads: 64, Sectors: 32}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Rewrite(ctx, path, 9<<20, g, new(stream.Counters)); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, before) {
		t.Errorf("stopped: the disk has changed, %v", err)
	}
	if err := Rewrite(t.Context(), path, 9<<20, g, new(stream.Counters)); err != nil {
		t.Fatal(err)
	}
	im, err := vmdk.Open(path, vmdk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	got := make([]byte, 9<<20)
	if _, err := im.ReadAt(got, 0); err != nil || !bytes.Equal(got, append(content, make([]byte, 4<<20)...)) {
		t.Errorf("another content, %v", err)
	}
	info := im.Info()
	if info.SizeBytes != 9<<20 || info.CID != spec.CID || info.UUID != spec.UUID || info.Geometry != g || info.Kind != vmdk.TypeMonolithicSparse {
		t.Errorf("%+v", info)
	}
	kept := false
	for _, e := range info.DDB {
		kept = kept || e == spec.DDB[0]
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o644 || !kept {
		t.Errorf("mode %v, %v, entry kept: %v", st.Mode(), err, kept)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}
