// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/stream/codec"
)

// programDir has the program once it has been built.
var programDir string

// program builds the command once and returns its path.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "vmstream-test-*")
	if err != nil {
		return "", err
	}
	programDir = dir
	path := filepath.Join(dir, "vmstream")
	c := exec.Command("go", "build", "-buildvcs=false", "-o", path, "github.com/vmstream/vmstream/cmd/vmstream")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	c.Stderr = os.Stderr
	return path, c.Run()
})

func TestMain(m *testing.M) {
	code := m.Run()
	if programDir != "" {
		_ = os.RemoveAll(programDir)
	}
	os.Exit(code)
}

func vmstream(ctx context.Context, tb testing.TB, args ...string) *exec.Cmd {
	tb.Helper()
	path, err := program()
	if err != nil {
		tb.Fatalf("build: %v", err)
	}
	return exec.CommandContext(ctx, path, args...)
}

// tool runs a foreign program and returns what it prints.
func tool(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := exec.Command(testenv.Tool(tb, name), args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func streamOptions(c string) stream.Options {
	spec := codec.Spec{Name: c}
	if spec.Compressed() {
		spec.Level = 1
	}
	return stream.Options{
		ID: "test", Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Tool: "test",
		ExtentBytes: 1 << 20, Codec: spec,
	}
}

// backup streams what is at path.
func backup(tb testing.TB, path string, o stream.Options) []byte {
	tb.Helper()
	src, err := OpenSource(tb.Context(), path, SourceOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	defer src.Close()
	var b bytes.Buffer
	if _, err := Backup(context.Background(), &b, src, o); err != nil {
		tb.Fatalf("backup %s: %v", path, err)
	}
	return b.Bytes()
}

// nothingIn fails if there is anything in dir.
func nothingIn(tb testing.TB, dir, what string) {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		tb.Errorf("%s: left %s behind", what, e.Name())
		_ = os.RemoveAll(filepath.Join(dir, e.Name()))
	}
}

// vector is a test vector of the stream; its README describes the files.
type vector struct {
	name, expect string
	raw          []string
	b            []byte
}

func vectors(tb testing.TB) []vector {
	tb.Helper()
	names, err := filepath.Glob(filepath.Join(testenv.Root(tb), "stream", "testdata", "vectors", "*.vec"))
	if err != nil || len(names) == 0 {
		tb.Fatalf("no vectors: %v", err)
	}
	var all []vector
	for _, name := range names {
		file, err := os.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		head, body, _ := strings.Cut(string(file), "\n\n")
		v := vector{name: strings.TrimSuffix(filepath.Base(name), ".vec")}
		for line := range strings.SplitSeq(head, "\n") {
			switch key, value, _ := strings.Cut(line, ": "); key {
			case "expect":
				v.expect = value
			case "raw-sha256":
				v.raw = append(v.raw, value)
			}
		}
		r, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(body)))
		if err != nil {
			tb.Fatal(err)
		}
		if v.b, err = io.ReadAll(r); err != nil {
			tb.Fatal(err)
		}
		all = append(all, v)
	}
	return all
}
