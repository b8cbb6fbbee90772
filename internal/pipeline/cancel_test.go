// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// pieceWriter notes the largest write and does something at each.
type pieceWriter struct {
	bytes.Buffer
	largest int
	each    func() error
}

func (w *pieceWriter) Write(p []byte) (int, error) {
	w.largest = max(w.largest, len(p))
	if err := w.each(); err != nil {
		return 0, err
	}
	return w.Buffer.Write(p)
}

func TestCancelWriter(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcde"), writePiece/5) // 3 pieces
	for _, n := range []int{0, 1, writePiece, writePiece + 1, len(content)} {
		for _, inPieces := range []bool{true, false} {
			w := &pieceWriter{each: func() error { return nil }}
			got, err := (&cancelWriter{ctx: t.Context(), w: w, inPieces: inPieces}).Write(content[:n])
			if err != nil || got != n || !bytes.Equal(w.Bytes(), content[:n]) || inPieces && w.largest > writePiece || !inPieces && w.largest != n {
				t.Errorf("%d bytes: %d, %v; pieces of up to %d", n, got, err, w.largest)
			}
		}
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !newCancelWriter(t.Context(), f).inPieces || newCancelWriter(t.Context(), io.Discard).inPieces {
		t.Error("a file is to get pieces, and nothing else is")
	}
	// An error ends it where it is, and so does the end of the context.
	failed, calls := errors.New("full"), 0
	w := &pieceWriter{each: func() error {
		if calls++; calls == 2 {
			return failed
		}
		return nil
	}}
	if n, err := (&cancelWriter{ctx: t.Context(), w: w, inPieces: true}).Write(content); n != writePiece || !errors.Is(err, failed) {
		t.Errorf("second piece fails: %d, %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c := &cancelWriter{ctx: ctx, w: &pieceWriter{each: func() error { cancel(); return nil }}, inPieces: true}
	if n, err := c.pieces(content); n != writePiece || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled in the first piece: %d, %v", n, err)
	}
}
