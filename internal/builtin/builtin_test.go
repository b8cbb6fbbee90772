// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package builtin

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
)

// TestExecutables has a program of its own for each scheme, and none besides.
func TestExecutables(t *testing.T) {
	const prefix = "vmstream-sink-"
	var schemes, programs []string
	for _, d := range Drivers() {
		about := d.Describe()
		schemes = append(schemes, about.Scheme)
		main := filepath.Join(testenv.Root(t), "plugins", prefix+about.Scheme, "main.go")
		b, err := os.ReadFile(main)
		if err != nil {
			t.Error(err)
			continue
		}
		if want := "plugins.Serve(" + about.Scheme + ".Driver(), os.Stdin)"; !strings.Contains(string(b), want) {
			t.Errorf("%s does not call %s", main, want)
		}
		if about.Summary == "" || !strings.HasPrefix(about.Form, about.Scheme+":") {
			t.Errorf("description %+v", about)
		}
	}
	dirs, err := filepath.Glob(filepath.Join(testenv.Root(t), "plugins", prefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		programs = append(programs, strings.TrimPrefix(filepath.Base(d), prefix))
	}
	slices.Sort(schemes)
	slices.Sort(programs)
	if !slices.Equal(schemes, programs) {
		t.Errorf("built in are %q, programs are there for %q", schemes, programs)
	}
}
