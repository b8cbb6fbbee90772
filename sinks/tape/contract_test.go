// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/sinktest"
)

// virtualDir returns a virtual drive with a blank tape in it.
func virtualDir(t testing.TB, config string) string {
	t.Helper()
	dir := t.TempDir()
	insert(t, dir, nil)
	if config != "" {
		if err := os.WriteFile(filepath.Join(dir, configName), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// insert puts a cartridge with this content into a virtual drive.
func insert(t testing.TB, dir string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, loadedName), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// openTarget opens the sink of a target.
func openTarget(t testing.TB, target string) (*sink, string) {
	t.Helper()
	tg, _ := sinks.ParseTarget(target)
	s, key, err := Driver().Open(t.Context(), tg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s.(*sink), key
}

func TestContract(t *testing.T) {
	for name, options := range map[string]string{
		"variable": "?buffer=4M", "512 fixed": "?fixed=1&block=512&buffer=1M", "1M": "?block=1M", "1M fixed": "?block=1M&fixed=1",
	} {
		t.Run(name, func(t *testing.T) {
			sinktest.Run(t, sinktest.Options{Open: func(t testing.TB) (sinks.Sink, string) {
				s, _ := openTarget(t, "tape:"+virtualDir(t, "")+options)
				return s, "vm/"
			}})
		})
	}
}
