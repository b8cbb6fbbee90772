// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package exec

import (
	"fmt"
	"strings"
	"time"

	"github.com/vmstream/vmstream/sinks"
)

// defaultKey is the key where the target has no option key.
const defaultKey = "stream"

var options = []sinks.Option{
	{Name: "restore", Usage: "command that writes the stream to its stdout"},
	{Name: "key", Usage: "VMSTREAM_KEY of the commands; a place for several if it ends with /", Default: defaultKey},
	{Name: "timeout", Usage: "how long the command may take after the end of its input, such as 10m; 0: for ever", Default: "0"},
}

// settings are what a target says.
type settings struct {
	store, restore, key string
	timeout             time.Duration
}

// parse takes the target apart. Options begin behind the last question mark that
// has the name of an option and = behind it; a command with such a thing in itself
// is followed by ?key=stream.
func parse(t sinks.Target) (settings, error) {
	store, query := split(t.Rest)
	s := settings{store: store, key: defaultKey}
	values, err := sinks.ParseOptions(t.Scheme, query, options)
	if err != nil {
		return s, err
	}
	s.restore = values["restore"]
	if k, ok := values["key"]; ok {
		s.key = k
	}
	if v, ok := values["timeout"]; ok {
		if s.timeout, err = time.ParseDuration(v); err != nil || s.timeout < 0 {
			return s, fmt.Errorf("exec target: timeout %q: write it as 90s or 10m: %w", v, sinks.ErrTarget)
		}
	}
	switch {
	case strings.ContainsRune(s.store+s.restore+s.key, 0):
		return s, fmt.Errorf("exec target: a zero byte: %w", sinks.ErrTarget)
	case strings.TrimSpace(s.store) == "" && s.restore == "":
		return s, fmt.Errorf("exec target: no command: write exec:COMMAND: %w", sinks.ErrTarget)
	}
	return s, nil
}

func split(rest string) (command, query string) {
	for i := len(rest) - 1; i >= 0; i-- {
		if rest[i] != '?' {
			continue
		}
		for _, o := range options {
			if strings.HasPrefix(rest[i+1:], o.Name+"=") {
				return rest[:i], rest[i+1:]
			}
		}
	}
	return rest, ""
}
