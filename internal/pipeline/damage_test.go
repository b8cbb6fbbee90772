// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/vmdk"
)

func isDamage(err error) bool {
	return errors.Is(err, disk.ErrCorrupt) || errors.Is(err, disk.ErrTruncated) || errors.Is(err, disk.ErrUnsupported) ||
		errors.Is(err, disk.ErrMismatch)
}

// refused restores a damaged stream to a directory and to a file: both have to
// fail for the damage and leave nothing.
func refused(t *testing.T, dir, what string, b []byte, f vmdk.Format) {
	t.Helper()
	if _, err := Restore(t.Context(), bytes.NewReader(b), RestoreOptions{Dir: dir, Format: f}); !isDamage(err) {
		t.Errorf("%s to %s: %v", what, f, err)
	}
	nothingIn(t, dir, what)
	_, err := Restore(t.Context(), bytes.NewReader(b), RestoreOptions{To: filepath.Join(dir, "disk.out"), Format: f})
	if err == nil {
		t.Errorf("%s to a file: no error", what)
	}
	nothingIn(t, dir, what)
}

// No bad vector leaves anything behind, whatever it is restored to.
func TestMatrixVectors(t *testing.T) {
	testenv.Long(t)
	dir := t.TempDir()
	formats := append([]vmdk.Format{FormatSame}, vmdk.Formats()...)
	for i, v := range vectors(t) {
		if v.expect != "ok" {
			refused(t, dir, v.name, v.b, formats[i%len(formats)])
		}
	}
}

// Good vectors come back as raw disks with the digests that they are to have.
func TestGoodVectors(t *testing.T) {
	for _, v := range vectors(t) {
		if v.expect != "ok" || v.name == "ok-one-tebibyte" || strings.HasPrefix(v.name, "ok-increment") {
			continue
		}
		dir := t.TempDir()
		done, err := Restore(t.Context(), bytes.NewReader(v.b), RestoreOptions{Dir: dir, Format: vmdk.FormatRaw})
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		for i, d := range done.Result.Opening.Disks {
			b, err := os.ReadFile(filepath.Join(dir, done.Result.Opening.VMName(), strings.TrimSuffix(d.File, ".vmdk")+".raw"))
			if err != nil {
				t.Errorf("%s: %v", v.name, err)
			} else if strings.HasSuffix(v.raw[i], " -") {
				continue // too large for the vector to have it
			} else if got := fmt.Sprintf("%s %x", d.Key, sha256.Sum256(b)); got != v.raw[i] {
				t.Errorf("%s: %s, want %s", v.name, got, v.raw[i])
			}
		}
	}
}

// Streams that are cut or have a bit flipped leave nothing behind;
// VMSTREAM_MATRIX=full tries every byte.
func TestMatrixRestore(t *testing.T) {
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(3, 9))
	for _, v := range vectors(t) {
		if !strings.HasPrefix(v.name, "ok-codec-") {
			continue
		}
		n := 200
		if testing.Short() {
			n = 20
		}
		full := os.Getenv("VMSTREAM_MATRIX") == "full"
		if full {
			n = len(v.b)
		}
		for i := range n {
			at, flip := i, i
			if !full {
				at, flip = r.IntN(len(v.b)), r.IntN(len(v.b))
			}
			refused(t, dir, fmt.Sprintf("%s cut at %d", v.name, at), v.b[:at], FormatSame)
			bad := bytes.Clone(v.b)
			bad[flip] ^= 1 << r.IntN(8)
			refused(t, dir, fmt.Sprintf("%s flipped at %d", v.name, flip), bad, FormatSame)
		}
	}
}

// An existing directory and file stay as they are when a restore fails, also
// with Force.
func TestRestoreKeepsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	var good []byte
	for _, v := range vectors(t) {
		if v.name == "ok-codec-zstd" {
			good = v.b
		}
	}
	bad := bytes.Clone(good)
	bad[len(bad)-70] ^= 1
	vm := filepath.Join(dir, "vm")
	if err := os.Mkdir(vm, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vm.vmx", "mine.txt"} {
		if err := os.WriteFile(filepath.Join(vm, name), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	unchanged := func(what string) {
		entries, err := os.ReadDir(vm)
		if err != nil || len(entries) != 2 {
			t.Errorf("%s: %v, %v", what, entries, err)
		}
		if b, err := os.ReadFile(filepath.Join(vm, "vm.vmx")); err != nil || string(b) != "mine" {
			t.Errorf("%s: %q, %v", what, b, err)
		}
		if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
			t.Errorf("%s: %v, %v", what, all, err)
		}
	}
	if _, err := Restore(t.Context(), bytes.NewReader(good), RestoreOptions{Dir: dir}); !errors.Is(err, os.ErrExist) || !errors.Is(err, stream.ErrTarget) {
		t.Errorf("over an existing directory: %v", err)
	}
	unchanged("without force")
	if _, err := Restore(t.Context(), bytes.NewReader(bad), RestoreOptions{Dir: dir, Force: true}); !isDamage(err) {
		t.Errorf("damaged: %v", err)
	}
	unchanged("damaged, with force")
	if _, err := Restore(t.Context(), bytes.NewReader(good), RestoreOptions{Dir: dir, Force: true}); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(vm, "mine.txt")); err != nil || string(b) != "mine" {
		t.Errorf("force took a file that the stream has not: %q, %v", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(vm, "vm.vmx")); err != nil || string(b) == "mine" {
		t.Errorf("force did not replace a file: %q, %v", b, err)
	}
}
