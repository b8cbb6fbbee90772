// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package writeback

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func create(t *testing.T) *File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return New(f)
}

func random(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(p)
	return p
}

func TestWrite(t *testing.T) {
	f, content := create(t), random(20<<20+5) // more than a step
	for rest := content; len(rest) > 0; {
		n, err := f.Write(rest[:min(len(rest), 1+len(rest)/3)])
		if err != nil || n != min(len(rest), 1+len(rest)/3) {
			t.Fatal(n, err)
		}
		rest = rest[n:]
	}
	if n, err := f.Write(nil); n != 0 || err != nil {
		t.Error(n, err)
	}
	if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, content) {
		t.Error("another content", err)
	}
}

func TestWriteAtConcurrently(t *testing.T) {
	f, content := create(t), random(50<<20)
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			at := i * 5 << 20
			if n, err := f.WriteAt(content[at:at+5<<20], int64(at)); n != 5<<20 || err != nil {
				t.Error(n, err)
			}
		})
	}
	wg.Wait()
	if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, content) {
		t.Error("another content", err)
	}
}

// An error says how much has been written in front of it.
func TestWriteFails(t *testing.T) {
	f, calls, failed := create(t), 0, errors.New("full")
	n, err := f.pieces(make([]byte, 3*PieceBytes), func(p []byte, done int) (int, error) {
		if calls++; calls == 2 {
			return 7, failed
		}
		return len(p), nil
	})
	if n != PieceBytes+7 || !errors.Is(err, failed) || calls != 2 {
		t.Error(n, err, calls)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := f.WriteAt([]byte("x"), 0); n != 0 || !errors.Is(err, fs.ErrClosed) {
		t.Error(n, err)
	}
	f.wrote(stepBytes) // has nobody to tell
}
