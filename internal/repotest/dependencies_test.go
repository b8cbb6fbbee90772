// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package repotest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// goMod is the part of the output of go mod edit -json that is looked at.
type goMod struct {
	Require []struct {
		Path, Version string
		Indirect      bool
	}
	Replace []json.RawMessage
	Tool    []struct{ Path string }
}

func readGoMod(t *testing.T, root string) goMod {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json")
	cmd.Dir = root
	b, err := cmd.Output()
	if err != nil {
		t.Fatalf("go mod edit -json: %v", err)
	}
	var m goMod
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestNoTools keeps the tools' own dependencies out of go.mod: they are
// installed by make tools instead. A replacement would hold for our build only,
// and not for who installs a program with go install.
func TestNoTools(t *testing.T) {
	tr := loadTree(t)
	m := readGoMod(t, tr.root)
	for _, tool := range m.Tool {
		t.Errorf("go.mod: tool %s; install it in the Makefile's tools target instead", tool.Path)
	}
	for _, r := range m.Replace {
		t.Errorf("go.mod: replace %s", r)
	}
}

// TestDependenciesDocument compares docs/dependencies.md with go.mod and with
// what the tree imports.
func TestDependenciesDocument(t *testing.T) {
	tr := loadTree(t)
	b, err := os.ReadFile(filepath.Join(tr.root, "docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := dependencyRows(string(b))
	versions, direct := map[string]string{}, map[string]bool{}
	for _, r := range readGoMod(t, tr.root).Require {
		versions[r.Path] = r.Version
		direct[r.Path] = !r.Indirect
	}
	for _, f := range tr.files {
		for _, imp := range f.imports() {
			if m := moduleOf(imp, versions); m != "" {
				direct[m] = true
			}
		}
	}
	for m := range versions {
		cells, ok := documented[m]
		switch {
		case direct[m] && !ok:
			t.Errorf("docs/dependencies.md: no line for %s %s", m, versions[m])
		case ok && cells[1] != versions[m]:
			t.Errorf("docs/dependencies.md: %s has the version %q, go.mod has %s", m, cells[1], versions[m])
		case ok && (len(cells) < 5 || slices.Contains(cells[:5], "")):
			t.Errorf("docs/dependencies.md: the line of %s has empty cells", m)
		}
	}
	for m := range documented {
		if _, ok := versions[m]; !ok {
			t.Errorf("docs/dependencies.md: has a line for %s, which is not in go.mod", m)
		}
	}
}

// dependencyRows returns the cells of the table lines that begin with a module
// in backquotes.
func dependencyRows(text string) map[string][]string {
	rows := map[string][]string{}
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		name, quotedName := strings.CutPrefix(cells[0], "`")
		name, closed := strings.CutSuffix(name, "`")
		if quotedName && closed && len(cells) >= 2 && strings.Contains(name, "/") {
			rows[name] = cells
		}
	}
	return rows
}

// moduleOf returns the module in versions that has a package.
func moduleOf(pkg string, versions map[string]string) string {
	for p := pkg; p != "." && p != "/"; p = filepath.ToSlash(filepath.Dir(p)) {
		if _, ok := versions[p]; ok {
			return p
		}
	}
	return ""
}
