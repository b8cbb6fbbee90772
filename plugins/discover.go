// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vmstream/vmstream/internal/form"
	"github.com/vmstream/vmstream/sinks"
)

const (
	// filePrefix is what the names of executables begin with; the scheme follows.
	filePrefix = "vmstream-sink-"

	// maxFound bounds how many executables are looked at.
	maxFound = 256
)

var nameForm = form.New(`^[a-z][a-z0-9]+$`, 32)

// Dirs returns the directories where plugins are looked for, the first that has one
// of a name wins: those of list, as $PATH has them; that of the program; and
// ../libexec/vmstream from there.
func Dirs(list, program string) []string {
	var dirs []string
	for _, d := range filepath.SplitList(list) {
		if filepath.IsAbs(d) { // where we are is nobody's choice
			dirs = append(dirs, filepath.Clean(d))
		}
	}
	if program != "" {
		if real, err := filepath.EvalSymlinks(program); err == nil {
			program = real
		}
		bin := filepath.Dir(program)
		dirs = append(dirs, bin, filepath.Join(filepath.Dir(bin), "libexec", "vmstream"))
	}
	return dirs
}

// candidate is an executable that has the name of a plugin.
type candidate struct{ name, path string }

// ErrNoSink says that no sink has the scheme that was asked for.
var ErrNoSink = errors.New("no sink")

// noSinkError is the error for a scheme that no sink has.
type noSinkError struct{ scheme string }

func noSink(scheme string) error { return &noSinkError{scheme} }

func (e *noSinkError) Error() string   { return "no sink is called " + short(e.scheme) }
func (e *noSinkError) Unwrap() []error { return []error{ErrNoSink, sinks.ErrTarget} }

// find returns the path of the plugin of a name. The error is ErrNoSink if no
// directory has one.
func find(dirs []string, name string) (string, error) {
	for _, d := range dirs {
		path := filepath.Join(d, filePrefix+name+suffix())
		_, err := os.Lstat(path)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", noSink(name)
}

// findAll returns all plugins, of each name the one that find returns.
func findAll(dirs []string) []candidate {
	var all []candidate
	seen := map[string]bool{}
	for _, d := range dirs {
		entries, err := os.ReadDir(d)
		if err != nil {
			continue // a directory that need not be there
		}
		for _, e := range entries {
			name, ok := strings.CutPrefix(e.Name(), filePrefix)
			name, right := strings.CutSuffix(name, suffix())
			if !ok || !right || !nameForm.MatchString(name) || seen[name] || len(all) == maxFound {
				continue
			}
			seen[name] = true
			all = append(all, candidate{name, filepath.Join(d, e.Name())})
		}
	}
	return all
}

func suffix() string {
	if runtime.GOOS == "windows" {
		return ".exe"
	}
	return ""
}
