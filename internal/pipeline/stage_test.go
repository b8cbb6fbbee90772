// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestSwapDirectory replaces a directory by a stage, with and without a system
// that exchanges names.
func TestSwapDirectory(t *testing.T) {
	for name, exchange := range map[string]func(a, b string) error{
		"exchange": exchange,
		"rename":   func(string, string) error { return errors.ErrUnsupported },
	} {
		t.Run(name, func(t *testing.T) {
			exchangeNames = exchange
			parent := t.TempDir()
			final := filepath.Join(parent, "final")
			if err := errors.Join(os.Mkdir(final, 0o700), os.WriteFile(filepath.Join(final, "old"), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			s, err := newStage(parent, final, false)
			if err != nil {
				t.Fatal(err)
			}
			s.swap = true
			if err := os.WriteFile(filepath.Join(s.dir, "new"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			paths, err := s.commit()
			if err != nil || len(paths) != 1 || paths[0] != filepath.Join(final, "new") {
				t.Fatalf("%q, %v", paths, err)
			}
			s.abort()
			for dir, want := range map[string]string{parent: "final", final: "new"} {
				if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || entries[0].Name() != want {
					t.Errorf("%s has %v, %v", dir, entries, err)
				}
			}
		})
	}
	exchangeNames = exchange
}
