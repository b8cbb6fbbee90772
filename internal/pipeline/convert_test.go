// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

func rawDisk(t *testing.T, dir string) (string, []byte) {
	t.Helper()
	b := bytes.Repeat([]byte("0123456789abcdef"), 3*vmdk.GrainBytes/16)
	clear(b[vmdk.GrainBytes : 2*vmdk.GrainBytes])
	path := filepath.Join(dir, "in.raw")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, b
}

func TestConvert(t *testing.T) {
	for _, f := range vmdk.Formats() {
		t.Run(string(f), func(t *testing.T) {
			dir := t.TempDir()
			in, want := rawDisk(t, dir)
			to := filepath.Join(dir, "out.vmdk")
			done, err := Convert(t.Context(), in, ConvertOptions{To: to, Format: f})
			if err != nil {
				t.Fatal(err)
			}
			if done.Format != f || done.SizeBytes != int64(len(want)) || len(done.Paths) == 0 {
				t.Errorf("converted: %+v", done)
			}
			for _, path := range done.Paths {
				if _, err := os.Stat(path); err != nil {
					t.Error(err)
				}
			}
			format := vmdk.SourceVMDK
			if f == vmdk.FormatRaw {
				format = vmdk.SourceRaw
			}
			var out bytes.Buffer
			if _, err := Convert(t.Context(), to, ConvertOptions{To: "-", Stdout: &out, Source: SourceOptions{Format: format}}); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), want) {
				t.Error("the content differs")
			}
		})
	}
}

// TestConvertRefused has targets that are not to be written: the error tells
// why and nothing is left.
func TestConvertRefused(t *testing.T) {
	dir := t.TempDir()
	in, content := rawDisk(t, dir)
	taken := filepath.Join(dir, "taken.raw")
	if err := os.WriteFile(taken, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(in, filepath.Join(dir, "link.raw")); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		o    ConvertOptions
		want error
	}{
		{"taken", t.Context(), ConvertOptions{To: taken}, fs.ErrExist},
		{"taken is the target's trouble", t.Context(), ConvertOptions{To: taken}, stream.ErrTarget},
		{"itself", t.Context(), ConvertOptions{To: in, Force: true}, ErrSameFile},
		{"a link to itself", t.Context(), ConvertOptions{To: filepath.Join(dir, "link.raw"), Force: true}, ErrSameFile},
		{"no directory", t.Context(), ConvertOptions{To: filepath.Join(dir, "none", "x.raw")}, fs.ErrNotExist},
		{"format for stdout", t.Context(), ConvertOptions{To: "-", Format: vmdk.FormatFlat}, disk.ErrUnsupported},
		{"cancelled", cancelled, ConvertOptions{To: filepath.Join(dir, "new.raw")}, context.Canceled},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Convert(c.ctx, in, c.o); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 {
		t.Errorf("left: %v", entries)
	}
	if b, err := os.ReadFile(in); err != nil || !bytes.Equal(b, content) {
		t.Errorf("the source was changed (%v)", err)
	}
}
