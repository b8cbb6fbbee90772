// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/stream/codec"
)

// A program in another language, which follows docs/format.md, says of every
// vector what ours does.
func TestIndependentReader(t *testing.T) {
	testenv.Long(t)
	python := testenv.Tool(t, "python3")
	dir := t.TempDir()
	args := []string{filepath.Join("testdata", "check.py")}
	var checked []*vector
	for _, v := range loadVectors(t) {
		b := v.b
		switch {
		case v.codec == codec.None:
		case v.expect == expectOK:
			b = decompress(t, v.b)
		default:
			continue // damage of the compressed layer
		}
		path := filepath.Join(dir, v.name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		checked, args = append(checked, v), append(args, path)
	}
	out, err := exec.CommandContext(t.Context(), python, args...).CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil || len(lines) != len(checked) {
		t.Fatalf("%v, %d lines for %d streams:\n%s", err, len(lines), len(checked), out)
	}
	for i, v := range checked {
		want := strings.TrimSpace("ok " + strings.Join(v.raw, " "))
		if got := strings.TrimSpace(lines[i]); v.expect == expectOK && got != want || v.expect != expectOK && !strings.HasPrefix(got, "refused:") {
			t.Errorf("%s (%s): %s; expect %s %s", v.name, v.about, got, v.expect, v.raw)
		}
	}
}
