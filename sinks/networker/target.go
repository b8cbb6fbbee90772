// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package networker

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/vmstream/vmstream/internal/form"
	"github.com/vmstream/vmstream/sinks"
)

const (
	defaultDir = "/var/lib/vmstream/networker"
	defaultBin = "/usr/sbin"
)

var options = []sinks.Option{
	{Name: "dir", Usage: "directory of the staging files, private to the user, with room for whole streams; its path becomes that of the save sets", Default: defaultDir},
	{Name: "server", Usage: "NetWorker server (-s)"},
	{Name: "client", Usage: "client that the save sets are of (-c)"},
	{Name: "pool", Usage: "pool (-b)"},
	{Name: "group", Usage: "group (-g)"},
	{Name: "level", Usage: "level (-l)", Default: "full"},
	{Name: "retention", Usage: "how long it is kept (-y), as NetWorker has dates"},
	{Name: "bin", Usage: "directory of save and recover", Default: defaultBin},
}

var (
	nameForm = form.New(`^[A-Za-z0-9_][A-Za-z0-9_.+-]*$`, 127)
	wordForm = form.New(`^[A-Za-z0-9_][A-Za-z0-9_.:/+ -]*$`, 127)
	pathForm = form.New(`^/[A-Za-z0-9_./+@=,-]*$`, 801)
)

// settings are what a target says.
type settings struct {
	key, dir, bin                                 string
	server, client, pool, group, level, retention string
}

// parse takes NAME and the options apart.
func parse(t sinks.Target) (settings, error) {
	key, query, _ := strings.Cut(t.Rest, "?")
	values, err := sinks.ParseOptions(t.Scheme, query, options)
	if err != nil {
		return settings{}, err
	}
	s := settings{key: key, dir: defaultDir, bin: defaultBin, level: "full"}
	for _, o := range []struct {
		name string
		to   *string
		form *form.Form
	}{
		{"dir", &s.dir, pathForm},
		{"bin", &s.bin, pathForm},
		{"server", &s.server, nameForm},
		{"client", &s.client, nameForm},
		{"pool", &s.pool, wordForm},
		{"group", &s.group, wordForm},
		{"level", &s.level, nameForm},
		{"retention", &s.retention, wordForm},
	} {
		v, ok := values[o.name]
		if !ok {
			continue
		}
		if !o.form.MatchString(v) || o.form == pathForm && filepath.Clean(v) != v {
			return s, fmt.Errorf("networker target: %s %q: %w", o.name, v, sinks.ErrTarget)
		}
		*o.to = v
	}
	if s.key != "" {
		err = checkKey(s.key)
	}
	return s, err
}

// checkKey takes only what is a file's name for everybody.
func checkKey(key string) error {
	if !nameForm.MatchString(key) {
		return fmt.Errorf("networker: key %q: letters, digits and . _ + - only: %w", key, sinks.ErrTarget)
	}
	return nil
}
