// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package repotest

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// anything is the rule of packages that wire the others together.
const anything = "all"

// mayImport is the import table: data goes one way, and nothing imports what
// is to its right or above it. A key covers the packages below it that have no
// row of their own, and those may import each other. A row may speak of
// packages that the tree does not have yet. docs/architecture.md shows the rest
// of the table, and the reasons.
var mayImport = map[string][]string{
	"disk":         {},
	"vmdk":         {"disk"},
	"redo":         {"disk", "vmdk"},
	"vmfs":         {"disk"},
	"scsi":         {},
	"vm":           {"disk", "vmdk", "redo", "vmfs", "scsi"},
	"stream":       {"disk", "vmdk", "stream/codec"},
	"stream/codec": {"disk"},
	"sinks":        {},
	"sinks/tape":   {"sinks", "scsi"},
	"plugins":      {"sinks", "sinks/tape"},
	"internal":     {anything},
	"cmd":          {anything},

	"internal/form":      {},
	"internal/lru":       {},
	"internal/readahead": {},
	"internal/writeback": {},
	"internal/testenv":   {},
	"internal/guestlab":  {"internal/testenv"},
	"internal/s3lab":     {"internal/testenv"},
	"internal/scsilab":   {"internal/testenv", "internal/guestlab"},
	"internal/repotest":  {},
}

// fromAnywhere may be imported by every package: they have no dependencies to
// pull in.
var fromAnywhere = []string{"internal/form", "internal/lru", "internal/readahead", "internal/writeback"}

// forTests may be imported by every package's tests besides what its row allows.
var forTests = []string{"internal/testenv", "internal/guestlab", "internal/s3lab", "internal/scsilab"}

// row returns the key of mayImport that covers a package.
func row(pkg string) (string, bool) {
	for key := pkg; key != "."; key = filepath.ToSlash(filepath.Dir(key)) {
		if _, ok := mayImport[key]; ok {
			return key, true
		}
	}
	return "", false
}

func allowed(from, to string, isTest bool) bool {
	key, ok := row(from)
	if !ok {
		return false
	}
	target, ok := row(to)
	switch {
	case !ok || to == "cmd" || strings.HasPrefix(to, "cmd/"):
		return false
	case slices.Contains(forTests, target) && key != target && !slices.Contains(mayImport[key], target):
		return isTest
	case slices.Contains(fromAnywhere, to), from == to, key == target:
		return true
	case slices.Contains(mayImport[key], anything):
		return true
	}
	return slices.Contains(mayImport[key], target)
}

func TestImportTable(t *testing.T) {
	tr := loadTree(t)
	for _, f := range tr.files {
		if _, ok := row(f.pkg); !ok {
			t.Errorf("%s: package %s has no row in the import table; add it here and in docs/architecture.md", f.name, f.pkg)
			continue
		}
		for _, spec := range f.syntax.Imports {
			to, ours := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), module+"/")
			if !ours || allowed(f.pkg, to, f.isTest) {
				continue
			}
			name, line := tr.line(f, spec.Pos())
			key, _ := row(f.pkg)
			t.Errorf("%s:%d: %s imports %s; the import table allows %s", name, line, f.pkg, to, list(mayImport[key]))
		}
	}
}

// TestImportRules keeps the check itself honest.
func TestImportRules(t *testing.T) {
	cases := []struct {
		from, to string
		isTest   bool
		want     bool
	}{
		{"vmdk", "disk", false, true},
		{"disk", "vmdk", false, false},
		{"disk", "vmdk", true, false},
		{"stream", "stream/codec", false, true},
		{"stream/codec", "stream", false, false},
		{"stream/codec", "vmdk", false, false},
		{"stream", "vm", false, false},
		{"stream", "internal/cli", false, false},
		{"stream", "internal/lru", false, true},
		{"stream", "internal/testenv", true, true},
		{"stream", "internal/testenv", false, false},
		{"internal/guestlab", "internal/testenv", false, true},
		{"internal/guestlab/guest", "internal/guestlab/record", false, true},
		{"internal/command", "internal/guestlab", false, false},
		{"cmd/vmstream", "internal/guestlab", true, true},
		{"vm", "stream", false, false},
		{"sinks/file", "sinks", false, true},
		{"sinks/file", "scsi", false, false},
		{"sinks/tape", "scsi", false, true},
		{"plugins/vmstream-sink-x", "sinks/file", false, true},
		{"internal/cli", "stream", false, true},
		{"internal/cli", "cmd/vmstream", false, false},
		{"internal/repotest", "disk", true, false},
		{"cmd/vmstream", "vm", false, true},
		{"elsewhere", "disk", false, false},
	}
	for _, c := range cases {
		if got := allowed(c.from, c.to, c.isTest); got != c.want {
			t.Errorf("%s imports %s (test: %v): allowed is %v, want %v", c.from, c.to, c.isTest, got, c.want)
		}
	}
}

const (
	tableStart = "<!-- import-table -->"
	tableEnd   = "<!-- /import-table -->"
)

var quoted = regexp.MustCompile("`([^`]+)`")

// TestImportTableDocument compares docs/architecture.md with what the table
// above says of the packages that are there: one line for each row.
func TestImportTableDocument(t *testing.T) {
	tr := loadTree(t)
	b, err := os.ReadFile(filepath.Join(tr.root, "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), tableStart)
	table, _, end := strings.Cut(rest, tableEnd)
	if !ok || !end {
		t.Fatalf("docs/architecture.md: no table between %s and %s", tableStart, tableEnd)
	}
	documented := map[string][]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) < 3 || !strings.Contains(cells[0], "`") {
			continue // the head of the table
		}
		key := quoted.FindStringSubmatch(cells[0])[1]
		if _, twice := documented[key]; twice {
			t.Errorf("docs/architecture.md: %s has two lines", key)
		}
		documented[key] = documentedImports(cells[2])
	}
	exists := map[string]bool{}
	for pkg := range tr.packages() {
		key, _ := row(pkg)
		exists[key] = true
	}
	for _, key := range slices.Sorted(maps.Keys(mayImport)) {
		got, ok := documented[key]
		want := slices.DeleteFunc(slices.Clone(mayImport[key]), func(k string) bool { return k != anything && !exists[k] })
		switch {
		case exists[key] && !ok:
			t.Errorf("docs/architecture.md: the import table has no line for %s", key)
		case !exists[key] && ok:
			t.Errorf("docs/architecture.md: the import table has a line for %s, which has no Go files", key)
		case ok && list(got) != list(want):
			t.Errorf("docs/architecture.md: %s may import %s there, %s here", key, list(got), list(want))
		}
		delete(documented, key)
	}
	for key := range documented {
		t.Errorf("docs/architecture.md: the import table has a line for %s, the test does not", key)
	}
}

func documentedImports(cell string) []string {
	if strings.TrimSpace(cell) == anything {
		return []string{anything}
	}
	var names []string
	for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
		names = append(names, m[1])
	}
	return names
}

func list(names []string) string {
	if len(names) == 0 {
		return "nothing of ours"
	}
	return strings.Join(slices.Sorted(slices.Values(names)), ", ")
}
