// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/file"
)

// TestMain lets the tests' own program be the plugin, as vmstream is for its
// built-in sinks, also under the name of an executable.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "plugin-serve" {
		os.Exit(serveTest(os.Args[2]))
	}
	if scheme, ok := strings.CutPrefix(filepath.Base(os.Args[0]), filePrefix); ok {
		os.Exit(serveTest(scheme))
	}
	// Of the race detector in plugins: it waits for a second at their ends otherwise.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=10"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// testDrivers are the drivers that the tests' own program serves.
func testDrivers() []sinks.Driver {
	return []sinks.Driver{file.Driver(), badDriver{}, named("wire")}
}

// named is a driver of another name that is never opened in this process.
type named string

func (n named) Describe() sinks.Description {
	d := badDriver{}.Describe()
	d.Scheme = string(n)
	return d
}

func (n named) Open(context.Context, sinks.Target, *slog.Logger) (sinks.Sink, string, error) {
	return nil, "", sinks.ErrUnsupported
}

func serveTest(scheme string) int {
	if start, ok := badStarts[scheme]; ok {
		start()
		return 0
	}
	if scheme == "wire" {
		serveBadWire()
		return 0
	}
	for _, d := range testDrivers() {
		if d.Describe().Scheme == scheme {
			if err := Serve(d, os.Stdin); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			return 0
		}
	}
	fmt.Fprintln(os.Stderr, "no such driver", scheme)
	return 2
}

// testHost returns a host whose built-in sinks are the tests' drivers.
func testHost(t testing.TB) *Host {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h := NewHost(Options{Self: self, Builtin: testDrivers(), Log: testLog(t)})
	for scheme := range badStarts {
		h.o.Builtin = append(h.o.Builtin, named(scheme))
	}
	return h
}

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// openSink opens a target and closes it in the end.
func openSink(t testing.TB, h *Host, target string) (*remote, string) {
	t.Helper()
	parsed, _ := sinks.ParseTarget(target)
	s, key, err := h.Open(t.Context(), parsed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s.(*remote), key
}

func tempTarget(t testing.TB) string { return "file:" + filepath.ToSlash(t.TempDir()) + "/" }
