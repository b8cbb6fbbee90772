// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
)

// TestDocument compares the table of options in docs/tape.md with those that there are.
func TestDocument(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(testenv.Root(t), "docs", "tape.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(b), "<!-- options: tape -->\n")
	table, _, end := strings.Cut(table, "\n\n")
	if !found || !end {
		t.Fatal("there is no table")
	}
	var documented, known []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\|").FindAllStringSubmatch(table, -1) {
		documented = append(documented, m[1])
	}
	for _, o := range Driver().Describe().Options {
		known = append(known, o.Name)
	}
	if !slices.Equal(documented, known) {
		t.Errorf("the table has %q, the driver %q", documented, known)
	}
}
