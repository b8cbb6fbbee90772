// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package testenv finds what tests need from outside: foreign tools and the
// corpus of real disk images. What is missing skips a test on a user's machine
// and fails it where VMSTREAM_REQUIRE_TOOLS=1 says that nothing may be missing.
package testenv

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Required reports if a missing tool or corpus is a failure.
func Required() bool { return os.Getenv("VMSTREAM_REQUIRE_TOOLS") == "1" }

// Tool returns the path of a foreign program, or skips the test.
func Tool(tb testing.TB, name string) string {
	tb.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		Missing(tb, "needs the program "+name)
	}
	return p
}

// Corpus returns the path of a file or directory of the corpus, or skips the
// test. The corpus lies in $VMSTREAM_CORPUS or beside the repository in
// ../shared/corpus.
func Corpus(tb testing.TB, name string) string {
	tb.Helper()
	root := os.Getenv("VMSTREAM_CORPUS")
	if root == "" {
		root = filepath.Join(Root(tb), "..", "shared", "corpus")
	}
	p := filepath.Join(root, filepath.FromSlash(name))
	if _, err := os.Stat(p); err != nil {
		Missing(tb, "needs the corpus file "+p)
	}
	return p
}

// Long skips a test under -short: one that takes long and is about processes,
// foreign tools, crashes or large disks, so that the race detector, which runs
// the short tests, has little to find.
func Long(tb testing.TB) {
	tb.Helper()
	if testing.Short() {
		tb.Skip("long; runs without -short")
	}
}

// Root returns the root of the repository.
func Root(tb testing.TB) string {
	tb.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		tb.Fatal("no caller information")
	}
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Missing skips a test, or fails it where nothing may be missing, and says what it
// needs.
func Missing(tb testing.TB, why string) {
	tb.Helper()
	if Required() {
		tb.Fatal(why + ", and VMSTREAM_REQUIRE_TOOLS=1")
	}
	tb.Skip(why)
}

// LoopDevice returns a loop device of size bytes, each of which is fill, or skips
// the test where the right to make one is missing.
func LoopDevice(tb testing.TB, size int, fill byte) string {
	tb.Helper()
	losetup := Tool(tb, "losetup")
	file := filepath.Join(tb.TempDir(), "backing")
	if err := os.WriteFile(file, bytes.Repeat([]byte{fill}, size), 0o600); err != nil {
		tb.Fatal(err)
	}
	out, err := exec.CommandContext(tb.Context(), losetup, "-f", "--show", file).CombinedOutput()
	if err != nil {
		tb.Skipf("needs the right to set up a loop device: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	tb.Cleanup(func() { _ = exec.Command(losetup, "-d", dev).Run() })
	return dev
}
