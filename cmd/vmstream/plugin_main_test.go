// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/plugins"
	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/file"
)

// oddDriver is a sink of files that goes wrong as its target says, such as
// odd:dies-in-write:/tmp/a.tar. The tests' own program serves it when it has the name
// of a plugin.
type oddDriver struct{ sinks.Driver }

// oddName is what the file of the plugin is called.
const oddName = "vmstream-sink-odd"

func serveOdd() {
	if err := plugins.Serve(oddDriver{file.Driver()}, os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (d oddDriver) Describe() sinks.Description {
	about := d.Driver.Describe()
	about.Scheme, about.Summary, about.Form = "odd", "files, and mistakes", "odd:HOW:PATH"
	about.Environment = []string{"VMSTREAM_ODD_*"}
	return about
}

func (d oddDriver) Open(ctx context.Context, t sinks.Target, log *slog.Logger) (sinks.Sink, string, error) {
	how, path, _ := strings.Cut(t.Rest, ":")
	switch how {
	case "dies-in-open":
		os.Exit(7)
	case "says":
		fmt.Fprintln(os.Stderr, "a line without a level")
		log.Debug("looks", "secret", os.Getenv("VMSTREAM_ODD_SECRET") != "", "other", os.Getenv("VMSTREAM_OTHER") != "")
		log.Info("opens")
		log.Warn("is odd")
	case "floods":
		for i := range 20_000 {
			log.Warn("says too much", "line", i)
		}
	}
	s, key, err := d.Driver.Open(ctx, sinks.Target{Scheme: "file", Rest: path}, log)
	return &oddSink{Sink: s, how: how}, key, err
}

type oddSink struct {
	sinks.Sink
	how string
}

func (s *oddSink) Create(ctx context.Context, key string, o sinks.CreateOptions) (sinks.Writer, error) {
	if s.how == "dies-in-create" {
		os.Exit(7)
	}
	w, err := s.Sink.Create(ctx, key, o)
	return &oddWriter{Writer: w, how: s.how}, err
}

func (s *oddSink) OpenAt(ctx context.Context, key string) (sinks.RangeReader, error) {
	r, err := s.Sink.OpenAt(ctx, key)
	return &oddReader{RangeReader: r, how: s.how}, err
}

type oddWriter struct {
	sinks.Writer
	how     string
	written int64
}

// oddBytes is where reading and writing go wrong.
const oddBytes = 1 << 20

func (w *oddWriter) Write(p []byte) (int, error) {
	if w.written += int64(len(p)); w.written >= oddBytes {
		switch w.how {
		case "dies-in-write":
			os.Exit(7)
		case "fails-in-write":
			return 0, io.ErrClosedPipe
		}
	}
	return w.Writer.Write(p)
}

func (w *oddWriter) Commit(ctx context.Context, end sinks.End) (sinks.Info, error) {
	switch w.how {
	case "dies-in-commit":
		os.Exit(7)
	case "lies":
		return sinks.Info{Key: "another", SizeBytes: end.SizeBytes}, w.Abort(ctx)
	}
	return w.Writer.Commit(ctx, end)
}

type oddReader struct {
	sinks.RangeReader
	how string
}

func (r *oddReader) ReadAt(p []byte, offset int64) (int, error) {
	if r.how == "dies-in-read" && offset+int64(len(p)) >= oddBytes {
		os.Exit(7)
	}
	return r.RangeReader.ReadAt(p, offset)
}

// pluginDir returns a directory with the plugin in it.
func pluginDir(t testing.TB) string {
	t.Helper()
	dir := testenv.PrivateDir(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close() // only read
	out, err := os.OpenFile(filepath.Join(dir, oddName), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}
