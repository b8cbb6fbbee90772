// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vmstream/vmstream/internal/command"
	"github.com/vmstream/vmstream/internal/manpage"
	"github.com/vmstream/vmstream/internal/testenv"
)

func tree() *cobra.Command {
	return command.New(command.Streams{In: bytes.NewReader(nil), Out: io.Discard, Err: io.Discard})
}

func generate(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := run([]string{dir}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestPages checks that there is a page for every command, with all its
// options, and that pages do not depend on when they are made.
func TestPages(t *testing.T) {
	dir, again := generate(t), generate(t)
	all := commands(tree())
	if len(all) < 10 {
		t.Fatalf("%d commands: the tree is not whole", len(all))
	}
	for _, c := range all {
		name := filepath.Join("man", manpage.Name(c)+".1")
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if b2, err := os.ReadFile(filepath.Join(again, name)); err != nil || !bytes.Equal(b, b2) {
			t.Errorf("%s: not the same twice (%v)", name, err)
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if want := `\fB` + strings.ReplaceAll("--"+f.Name, "-", `\-`) + `\fR`; !bytes.Contains(b, []byte(want)) {
				t.Errorf("%s: --%s is missing", name, f.Name)
			}
		})
		want := []string{"NAME", "SYNOPSIS", "DESCRIPTION", "SEE ALSO"}
		if strings.Contains(c.Long, manpage.ExitCodes) {
			want = append(want, "EXIT STATUS")
		}
		for _, s := range want {
			if !bytes.Contains(b, []byte(`.SH "`+s+`"`)) {
				t.Errorf("%s: no section %s", name, s)
			}
		}
	}
}

// TestPagesFormat gives every page to groff, which must have nothing to say.
func TestPagesFormat(t *testing.T) {
	groff := testenv.Tool(t, "groff")
	dir := generate(t)
	for _, c := range commands(tree()) {
		path := filepath.Join(dir, "man", manpage.Name(c)+".1")
		cmd := exec.CommandContext(t.Context(), groff, "-man", "-Tutf8", "-ww", path)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil || stderr.Len() > 0 {
			t.Errorf("%s: %v\n%s", path, err, stderr.String())
		}
		if !bytes.Contains(out, []byte(c.Name())) {
			t.Errorf("%s: groff made nothing of it", path)
		}
	}
}

// TestCompletions lets bash parse its script.
func TestCompletions(t *testing.T) {
	dir := generate(t)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		b, err := os.ReadFile(filepath.Join(dir, "completions", "vmstream."+shell))
		if err != nil || !bytes.Contains(b, []byte("vmstream")) {
			t.Errorf("%s: %v, %d bytes", shell, err, len(b))
		}
	}
	bash := testenv.Tool(t, "bash")
	if out, err := exec.CommandContext(t.Context(), bash, "-n", filepath.Join(dir, "completions", "vmstream.bash")).CombinedOutput(); err != nil {
		t.Errorf("bash -n: %v\n%s", err, out)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"a", "b"}} {
		if run(args) == nil {
			t.Errorf("%q: no error", args)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if run([]string{file}) == nil {
		t.Error("a file for a directory: no error")
	}
}
