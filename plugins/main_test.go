// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/file"
)

// TestMain lets the tests' own program be the plugin, as vmstream is for its
// built-in sinks.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "plugin-serve" {
		os.Exit(serveTest(os.Args[2]))
	}
	os.Exit(m.Run())
}

// testDrivers are the drivers that the tests' own program serves.
func testDrivers() []sinks.Driver {
	return []sinks.Driver{file.Driver()}
}

func serveTest(scheme string) int {
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
	return NewHost(Options{Self: self, Builtin: testDrivers(), Log: testLog(t)})
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
