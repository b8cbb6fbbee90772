// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package netbackup

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/vmstream/vmstream/internal/form"
	"github.com/vmstream/vmstream/sinks"
)

var options = []sinks.Option{
	{Name: "dir", Usage: "directory of the named pipes, private to the user; its path becomes that of the images", Default: "/var/lib/vmstream/netbackup"},
	{Name: "master", Usage: "master server (-S)"},
	{Name: "keyword", Usage: "keyword phrase of the image (-k); the backup's id unless given"},
	{Name: "bin", Usage: "directory of bpbackup", Default: "/usr/openv/netbackup/bin"},
}

var (
	nameForm    = form.New(`^[A-Za-z0-9_][A-Za-z0-9_.+-]*$`, 127)
	pathForm    = form.New(`^/[A-Za-z0-9_./+@=,-]*$`, 801)
	keywordForm = form.New(`^[A-Za-z0-9_][A-Za-z0-9_.:+ -]*$`, 100)
)

// settings are what a target says.
type settings struct {
	policy, schedule, key, dir, master, keyword, bin string
}

// parse takes POLICY/SCHEDULE[/KEY] and the options apart.
func parse(t sinks.Target) (settings, error) {
	rest, query, _ := strings.Cut(t.Rest, "?")
	values, err := sinks.ParseOptions(t.Scheme, query, options)
	if err != nil {
		return settings{}, err
	}
	s := settings{dir: "/var/lib/vmstream/netbackup", bin: "/usr/openv/netbackup/bin"}
	parts := strings.SplitN(rest, "/", 3)
	if len(parts) < 2 || !nameForm.MatchString(parts[0]) || !nameForm.MatchString(parts[1]) {
		return s, fmt.Errorf("netbackup target: write netbackup:POLICY/SCHEDULE/NAME: %w", sinks.ErrTarget)
	}
	s.policy, s.schedule = parts[0], parts[1]
	if len(parts) == 3 {
		s.key = parts[2]
	}
	for _, o := range []struct {
		name string
		to   *string
		form *form.Form
	}{
		{"dir", &s.dir, pathForm},
		{"bin", &s.bin, pathForm},
		{"master", &s.master, nameForm},
		{"keyword", &s.keyword, keywordForm},
	} {
		v, ok := values[o.name]
		if !ok {
			continue
		}
		if !o.form.MatchString(v) || o.form == pathForm && filepath.Clean(v) != v {
			return s, fmt.Errorf("netbackup target: %s %q: %w", o.name, v, sinks.ErrTarget)
		}
		*o.to = v
	}
	if s.key != "" {
		err = checkKey(s.key)
	}
	return s, err
}

// checkKey takes only what is a file's name in a list, a log and a catalog alike.
func checkKey(key string) error {
	if !nameForm.MatchString(key) {
		return fmt.Errorf("netbackup: key %q: letters, digits and . _ + - only: %w", key, sinks.ErrTarget)
	}
	return nil
}
