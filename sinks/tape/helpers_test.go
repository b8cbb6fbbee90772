// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmstream/vmstream/sinks"
)

// content is n bytes that differ for each seed.
func content(n, seed int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 't'}).Read(b) // never fails
	return b
}

// put stores a stream.
func put(t testing.TB, s *sink, key string, b []byte, o sinks.CreateOptions) error {
	t.Helper()
	w, err := s.Create(t.Context(), key, o)
	if err != nil {
		return err
	}
	for p := b; len(p) > 0 && err == nil; {
		n := min(len(p), 70_001)
		_, err = w.Write(p[:n])
		p = p[n:]
	}
	if err == nil {
		_, err = w.Commit(t.Context(), sinks.End{SizeBytes: int64(len(b)), Digest: "d1"})
	}
	return errors.Join(err, w.Abort(t.Context()))
}

func mustPut(t testing.TB, s *sink, key string, b []byte) {
	t.Helper()
	if err := put(t, s, key, b, sinks.CreateOptions{ID: "id-" + key}); err != nil {
		t.Fatalf("%s: %v", key, err)
	}
}

// get reads a stream.
func get(t testing.TB, s *sink, key string) ([]byte, sinks.Info, error) {
	t.Helper()
	r, info, err := s.Open(t.Context(), key)
	if err != nil {
		return nil, info, err
	}
	b, err := io.ReadAll(r)
	return b, info, errors.Join(err, r.Close())
}

func mustGet(t testing.TB, s *sink, key string, want []byte) {
	t.Helper()
	b, _, err := get(t, s, key)
	if err != nil || !bytes.Equal(b, want) {
		t.Fatalf("%s: %d bytes, %d were stored: %v", key, len(b), len(want), err)
	}
}

// keys lists.
func keys(t testing.TB, s *sink) []string {
	t.Helper()
	var all []string
	for i, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%s %d", i.Key, i.SizeBytes))
	}
	return all
}

// shelf is a command that changes the cartridges of a virtual drive: it puts a blank one
// in for writing, and the one called vN for reading.
const shelf = `case $VMSTREAM_WHY in
write) : >$VMSTREAM_TAPE/loaded.tap;;
read) cp $VMSTREAM_TAPE/v$VMSTREAM_VOLUME $VMSTREAM_TAPE/loaded.tap;;
esac`

// cartridges is how many have been ejected, and moves them to where shelf looks.
func cartridges(t testing.TB, dir string) int {
	t.Helper()
	for n := 1; ; n++ {
		b, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf(ejectedForm, n)))
		if errors.Is(err, os.ErrNotExist) {
			b, err = os.ReadFile(filepath.Join(dir, loadedName))
			if errors.Is(err, os.ErrNotExist) {
				return n - 1 // given up between two
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, fmt.Sprintf("v%d", n)), b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, fmt.Sprintf("v%d", n)), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// load puts the cartridge vN into the drive.
func load(t testing.TB, dir string, n int) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("v%d", n)))
	if err != nil {
		t.Fatal(err)
	}
	insert(t, dir, b)
}
