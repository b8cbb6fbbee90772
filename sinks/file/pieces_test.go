// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vmstream/vmstream/sinks"
)

func put(t *testing.T, s sinks.Sink, key string, b []byte, o sinks.CreateOptions) (sinks.Info, error) {
	t.Helper()
	w, err := s.Create(t.Context(), key, o)
	if err != nil {
		return sinks.Info{}, err
	}
	for p := b; len(p) > 0; {
		n := min(len(p), 300_001)
		if _, err := w.Write(p[:n]); err != nil {
			return sinks.Info{}, errors.Join(err, w.Abort(t.Context()))
		}
		p = p[n:]
	}
	return w.Commit(t.Context(), sinks.End{SizeBytes: int64(len(b))})
}

func get(t *testing.T, s sinks.Sink, key string) ([]byte, error) {
	t.Helper()
	r, _, err := s.Open(t.Context(), key)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// TestPieces looks at the files of an object that is split.
func TestPieces(t *testing.T) {
	dir := t.TempDir()
	s, _ := openTarget(t, dir+"/?split=1M")
	b := bytes.Repeat([]byte("0123456789"), 250_000) // 2.4 MiB
	if _, err := put(t, s, "web.tar", b, sinks.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int64{"web.tar.001of003": 1 << 20, "web.tar.002of003": 1 << 20, "web.tar.003of003": int64(len(b)) - 2<<20} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Size() != size {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
	if out, err := exec.Command("sh", "-c", "cat "+dir+"/web.tar.*of*").Output(); err == nil && !bytes.Equal(out, b) {
		t.Error("cat of the pieces gives something else")
	}
	// Who does not split reads them, too.
	plain, _ := openTarget(t, dir+"/")
	if got, err := get(t, plain, "web.tar"); err != nil || !bytes.Equal(got, b) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := put(t, plain, "web.tar", b, sinks.CreateOptions{}); !errors.Is(err, sinks.ErrExists) {
		t.Errorf("over pieces: %v", err)
	}
	// Replaced by as many pieces, by others, by a whole file, and back.
	for i, c := range []struct {
		s sinks.Sink
		n int
	}{{s, len(b)}, {s, 100}, {plain, 1000}, {s, 3 << 20}} {
		b[0] = byte(i)
		if _, err := put(t, c.s, "web.tar", b[:min(c.n, len(b))], sinks.CreateOptions{Overwrite: true}); err != nil {
			t.Fatal(err)
		}
		if got, err := get(t, plain, "web.tar"); err != nil || !bytes.Equal(got, b[:min(c.n, len(b))]) {
			t.Errorf("replaced %d: %d bytes, %v", i, len(got), err)
		}
		n := 0
		for _, err := range plain.List(t.Context(), "") {
			if n++; err != nil {
				t.Error(err)
			}
		}
		for o, err := range plain.Orphans(t.Context(), "") {
			t.Errorf("replaced %d: orphan %v, %v", i, o, err)
		}
		if n != 1 {
			t.Errorf("replaced %d: %d objects", i, n)
		}
	}
}

// TestPiecesMissing has what is not whole give an error.
func TestPiecesMissing(t *testing.T) {
	b := bytes.Repeat([]byte("x"), 3<<20)
	for name, damage := range map[string]func(dir string) error{
		"last":    func(dir string) error { return os.Remove(dir + "/o.003of003") },
		"middle":  func(dir string) error { return os.Remove(dir + "/o.002of003") },
		"shorter": func(dir string) error { return os.Truncate(dir+"/o.002of003", 1000) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, _ := openTarget(t, dir+"/?split=1M")
			if _, err := put(t, s, "o", b, sinks.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, err := put(t, s, "other", b, sinks.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			if name == "shorter" { // who looks at it first knows no better; the stream does
				r, err := s.OpenAt(t.Context(), "o")
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(dir+"/o.001of003", 10); err != nil {
					t.Fatal(err)
				}
				if _, err := r.ReadAt(make([]byte, 100), 0); err == nil {
					t.Error("a piece that has changed is read")
				}
				return
			}
			if got, err := get(t, s, "o"); err == nil {
				t.Errorf("%d bytes are read", len(got))
			}
			if _, err := s.Stat(t.Context(), "o"); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("stat: %v", err)
			}
			var keys []string
			var listErr error
			for info, err := range s.List(t.Context(), "") {
				if err != nil {
					listErr = err
					continue
				}
				keys = append(keys, info.Key)
			}
			if len(keys) != 1 || keys[0] != "other" || listErr == nil {
				t.Errorf("list: %q, %v", keys, listErr)
			}
			if err := s.Delete(t.Context(), "o"); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPiecesInterrupted stops a commit before each of its names.
func TestPiecesInterrupted(t *testing.T) {
	defer func() { link = (*os.Root).Link }()
	b := bytes.Repeat([]byte("y"), 3<<20)
	stop := errors.New("stopped")
	for at := range 3 {
		dir := t.TempDir()
		s, _ := openTarget(t, dir+"/?split=1M")
		n := 0
		link = func(r *os.Root, from, to string) error {
			if n++; n > at {
				return stop
			}
			return r.Link(from, to)
		}
		if _, err := put(t, s, "o", b, sinks.CreateOptions{}); !errors.Is(err, stop) {
			t.Errorf("stopped at %d: %v", at, err)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
			t.Errorf("stopped at %d: %v are left, %v", at, names, err)
		}
	}
	// A run that was killed there leaves orphans.
	dir := t.TempDir()
	for _, name := range []string{"o.003of003", "o.002of003", "p.001of001"} {
		if err := os.WriteFile(filepath.Join(dir, name), b[:100], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, _ := openTarget(t, dir+"/")
	if _, err := s.Stat(t.Context(), "o"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a first piece: %v", err)
	}
	var ids []string
	for o, err := range s.Orphans(t.Context(), "") {
		if err != nil || o.Key != "o" {
			t.Errorf("orphan %+v, %v", o, err)
		}
		ids = append(ids, o.ID)
		if err := s.RemoveOrphan(t.Context(), o); err != nil {
			t.Error(err)
		}
	}
	if len(ids) != 2 {
		t.Errorf("orphans %q", ids)
	}
	if err := s.RemoveOrphan(t.Context(), sinks.Orphan{Key: "p", ID: "p.001of001"}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a piece of an object is removed as an orphan: %v", err)
	}
}

// TestKept is about what a run leaves for another one.
func TestKept(t *testing.T) {
	dir := t.TempDir()
	s, _ := openTarget(t, dir+"/")
	keep := sinks.CreateOptions{Keep: true, ID: "b1"}
	w, err := s.Create(t.Context(), "o", keep)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), "o", keep); err == nil {
		t.Error("two runs write the same file")
	}
	b := bytes.Repeat([]byte("0123456789"), 100_000)
	if _, err := w.Write(b[:700_000]); err != nil {
		t.Fatal(err)
	}
	if err := w.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(dir, keptName("o", "b1"))
	before, err := os.Stat(part)
	if err != nil || before.Size() != 700_000 {
		t.Fatalf("%v, %v", before, err)
	}
	// What is there is not written again.
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(part, old, old); err != nil {
		t.Fatal(err)
	}
	w, err = s.Create(t.Context(), "o", sinks.CreateOptions{Keep: true, Resume: true, ID: "b1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b[:600_000]); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(part); err != nil || !fi.ModTime().Equal(old) {
		t.Errorf("it was written to: %v, %v", fi, err)
	}
	if _, err := w.Write(b[600_000:]); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(t.Context(), sinks.End{SizeBytes: int64(len(b))}); err != nil {
		t.Fatal(err)
	}
	if got, err := get(t, s, "o"); err != nil || !bytes.Equal(got, b) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	// Of another backup nothing is taken.
	if keptName("o", "b1") == keptName("o", "b2") || keptName("o", "b1") == keptName("p", "b1") {
		t.Error("kept files of different backups have one name")
	}
}

// TestDeep has a tree that is too deep told, and not left out.
func TestDeep(t *testing.T) {
	dir := t.TempDir()
	deep := dir
	for range maxDepth + 2 {
		deep += "/d"
	}
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	s, _ := openTarget(t, dir+"/")
	var last error
	for _, err := range s.List(t.Context(), "") {
		last = err
	}
	if last == nil {
		t.Error("what lies too deep is left out and nothing said")
	}
}

func FuzzPiece(f *testing.F) {
	for _, s := range []string{"a.001of003", "a.1of3", "a.003of001", ".x.vmstream-AAAAAAAAAAAAAAAAAAAAAAAAAA.part", "a.000000001of000000001"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if name, n, count, digits, ok := parsePiece(s); ok && pieceName(name, n, count, digits) != s {
			t.Errorf("%q is taken for piece %d of %d of %q", s, n, count, name)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"///a/b?mode=0600", "a%20b?split=2G", "//localhost/x?mkdir=1&split=1M", "?", "//h/%zz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		sink, _, err := Driver().Open(t.Context(), sinks.Target{Scheme: "file", Rest: s}, nil)
		if err == nil {
			_ = sink.Close()
		}
	})
}
