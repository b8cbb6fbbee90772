// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/vmstream/vmstream/internal/testenv"
)

var (
	optionsMark = regexp.MustCompile(`<!-- options: ([a-z]+) -->`)
	optionRow   = regexp.MustCompile("^\\| (?:`-([A-Za-z])` )?\\| `--([a-z-]+)` \\| (.+) \\|$")
)

// TestClassicOptions compares the tables of docs/classic.md with the options that
// there are, and looks for a script that uses each letter.
func TestClassicOptions(t *testing.T) {
	root := testenv.Root(t)
	b, err := os.ReadFile(filepath.Join(root, "docs", "classic.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]map[string]string{}
	table := ""
	for line := range strings.Lines(string(b)) {
		if m := optionsMark.FindStringSubmatch(line); m != nil {
			table = m[1]
			documented[table] = map[string]string{}
		}
		if m := optionRow.FindStringSubmatch(strings.TrimSpace(line)); m != nil && table != "" {
			documented[table][m[2]] = m[1]
		} else if strings.HasPrefix(line, "#") {
			table = ""
		}
	}
	for _, name := range classicNames {
		c, _, err := New(Streams{}).Find([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		script, err := os.ReadFile(filepath.Join(root, "cmd", "vmstream", "testdata", "script", "classic_"+name+".txtar"))
		if err != nil {
			t.Fatal(err)
		}
		c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			short, ok := documented[name][f.Name]
			if !ok || short != f.Shorthand {
				t.Errorf("%s: --%s, -%s is not so in docs/classic.md", name, f.Name, f.Shorthand)
			}
			delete(documented[name], f.Name)
			used := regexp.MustCompile(`(?m)^(exec|exits \d) .*\b` + name + `(\.pl)? (.* )?-[a-zA-Z]*` + f.Shorthand + `[a-zA-Z]*( |$)`)
			if f.Shorthand != "" && !used.Match(script) {
				t.Errorf("%s: no script uses -%s", name, f.Shorthand)
			}
		})
		if len(documented[name]) > 0 {
			t.Errorf("%s: docs/classic.md has options that there are not: %v", name, documented[name])
		}
	}
}
