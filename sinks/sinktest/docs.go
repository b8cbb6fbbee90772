// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package sinktest

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/sinks"
)

var documentedOption = regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\|")

// Documented compares the options of a driver with the table that a document has behind
// the mark <!-- options: SCHEME -->.
func Documented(t *testing.T, d sinks.Driver, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	about := d.Describe()
	_, table, found := strings.Cut(string(b), "<!-- options: "+about.Scheme+" -->\n")
	table, _, end := strings.Cut(table, "\n\n")
	if !found || !end {
		t.Fatalf("%s has no table of options of %s", path, about.Scheme)
	}
	var documented, known []string
	for _, m := range documentedOption.FindAllStringSubmatch(table, -1) {
		documented = append(documented, m[1])
	}
	for _, o := range about.Options {
		known = append(known, o.Name)
	}
	if !slices.Equal(documented, known) {
		t.Errorf("the table has %q, the driver %q", documented, known)
	}
}
