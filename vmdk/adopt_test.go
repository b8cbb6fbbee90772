// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vmstream/vmstream/disk"
)

// A raw file becomes a disk that reads the same, in every format that can have
// it as it is; whatever is in the way stays.
func TestAdopt(t *testing.T) {
	content := randomBytes(100_000, 3) // not a whole number of sectors
	for _, f := range Formats() {
		dir := t.TempDir()
		raw := filepath.Join(dir, "raw")
		if err := os.WriteFile(raw, append(bytes.Clone(content), make([]byte, 352)...), 0o600); err != nil {
			t.Fatal(err)
		}
		spec := CreateSpec{Format: f, Dir: dir, Name: "d.vmdk", SizeBytes: int64(len(content)), CID: 0x1234abcd}
		files, err := Adopt(spec, raw)
		if !f.Adopts() {
			if !errors.Is(err, disk.ErrUnsupported) {
				t.Errorf("%s: %v", f, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		if got := names(t, dir); !slices.Equal(got, slices.Sorted(slices.Values(files))) || files[len(files)-1] != "d.vmdk" {
			t.Errorf("%s: there are %v, Adopt says %v", f, got, files)
		}
		format := SourceVMDK
		if f == FormatRaw {
			format = SourceRaw
		}
		im, err := Open(filepath.Join(dir, "d.vmdk"), Options{Format: format})
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		got, err := io.ReadAll(io.NewSectionReader(im, 0, im.Size()))
		if err != nil || !bytes.HasPrefix(got, content) || len(got) != int(spec.SizeBytes) && f == FormatRaw {
			t.Errorf("%s: %d bytes read, %v", f, len(got), err)
		}
		if f != FormatRaw && im.Info().CID != spec.CID {
			t.Errorf("%s: content id %08x", f, im.Info().CID)
		}
		if err := im.Close(); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(raw, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Adopt(spec, raw); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: over an existing disk: %v", f, err)
		}
	}
}
