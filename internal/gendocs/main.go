// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Gendocs writes the man pages and the shell completions of vmstream, made from
// its command tree:
//
//	go run ./internal/gendocs DIR
//
// gives DIR/man/*.1 and DIR/completions/vmstream.{bash,zsh,fish}. The same tree
// gives the same bytes.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/command"
	"github.com/vmstream/vmstream/internal/manpage"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gendocs:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: gendocs DIR")
	}
	root := command.New(command.Streams{In: bytes.NewReader(nil), Out: io.Discard, Err: io.Discard})
	return errors.Join(writePages(root, filepath.Join(args[0], "man")), writeCompletions(root, filepath.Join(args[0], "completions")))
}

func writePages(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, c := range commands(root) {
		if err := os.WriteFile(filepath.Join(dir, manpage.Name(c)+".1"), manpage.Roff(c), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// commands returns c and the commands below it that a user sees.
func commands(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			all = append(all, commands(sub)...)
		}
	}
	return all
}

func writeCompletions(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	bash := func(w io.Writer) error { return root.GenBashCompletionV2(w, true) }
	fish := func(w io.Writer) error { return root.GenFishCompletion(w, true) }
	for _, s := range []struct {
		shell string
		gen   func(io.Writer) error
	}{{"bash", bash}, {"zsh", root.GenZshCompletion}, {"fish", fish}} {
		var b bytes.Buffer
		if err := s.gen(&b); err != nil {
			return fmt.Errorf("completion for %s: %w", s.shell, err)
		}
		if err := os.WriteFile(filepath.Join(dir, "vmstream."+s.shell), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}
