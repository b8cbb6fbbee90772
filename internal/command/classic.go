// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/manpage"
)

// classicNames are the tools that the program stands in for when it is called
// by their names.
var classicNames = []string{"vmsnap", "vmres", "addredo", "vmkfstools"}

// Args returns the arguments of a run. If the program was called by the name of
// a classic tool, with or without .pl behind, or of the Application of Amanda,
// that is the command.
func Args(argv []string) []string {
	if len(argv) == 0 {
		return nil
	}
	name := strings.TrimSuffix(filepath.Base(argv[0]), ".pl")
	if slices.Contains(classicNames, name) || name == amvmstreamName {
		return append([]string{name}, argv[1:]...)
	}
	return argv[1:]
}

// classicFlags are what all classic tools have.
type classicFlags struct {
	manual, version bool
	debug           bool
}

func (f *classicFlags) add(c *cobra.Command) {
	c.Flags().BoolVarP(&f.manual, "man", "m", false, "print the manual page")
	c.Flags().BoolVarP(&f.version, "version", "V", false, "print the version")
	c.InitDefaultHelpFlag() // so that the manual page has it
}

func (f *classicFlags) addDebug(c *cobra.Command) {
	c.Flags().BoolVarP(&f.debug, "debug", "g", false, "tell more, and write what happens to the system log too")
}

// answer does what -m and -V ask for, and reports if it was asked.
func (f *classicFlags) answer(a *app, c *cobra.Command) (bool, error) {
	switch {
	case f.manual:
		return true, a.printText(func(w io.Writer) error { return printManual(w, c.Name()) })
	case f.version:
		return true, a.printText(func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%s (vmstream) %s\n", c.Name(), Version())
			return err
		})
	}
	return false, nil
}

// printManual prints the page of a command. It is made from a tree of its own:
// cobra adds to the one that runs.
func printManual(w io.Writer, name string) error {
	root := New(Streams{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard})
	c, _, err := root.Find([]string{name})
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, manpage.Text(c))
	return err
}

// atMostOnce refuses a flag that was given several times where the last one
// would win without a word.
func atMostOnce(flag string, values []string) (string, error) {
	if len(values) > 1 {
		return "", cli.Usage(fmt.Errorf("%s %s and %s: one at a time; run it once for each", flag, values[0], values[1]))
	}
	if len(values) == 0 {
		return "", nil
	}
	return values[0], nil
}
