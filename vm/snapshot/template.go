// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// Template is a command with placeholders such as {config}. It is split at
// blanks, of which '…', "…" and \ take away the meaning, before placeholders get
// their values: no value, whatever is in it, is more than a part of one
// argument, and no shell sees any.
type Template string

// placeholders are what a template may have.
func placeholders() []string {
	return []string{"config", "disk", "level", "id", "name", "vmid", "snapshot"}
}

// has reports if the template has a placeholder.
func (t Template) has(name string) bool { return strings.Contains(string(t), "{"+name+"}") }

// HasLevel reports if the template is told which level is meant.
func (t Template) HasLevel() bool { return t.has("level") }

// Validate refuses what cannot be split, and unknown placeholders.
func (t Template) Validate() error {
	args, err := t.split()
	if err != nil {
		return err
	}
	if len(args) == 0 || args[0] == "" {
		return fmt.Errorf("command %q: it has no name: %w", string(t), disk.ErrUnsupported)
	}
	for _, a := range args {
		for rest := a; ; {
			_, after, ok := strings.Cut(rest, "{")
			name, more, closed := strings.Cut(after, "}")
			if !ok || !closed {
				break
			}
			if isWord(name) && !slices.Contains(placeholders(), name) {
				return fmt.Errorf("command %q: {%s} is not known: there are %v: %w", string(t), name, placeholders(), disk.ErrUnsupported)
			}
			rest = more
		}
	}
	return nil
}

func isWord(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz") == ""
}

// argv returns the command with values for its placeholders.
func (t Template) argv(values map[string]string) ([]string, error) {
	args, err := t.split()
	if err != nil {
		return nil, err
	}
	var pairs []string
	for name, v := range values {
		if strings.ContainsRune(v, 0) {
			return nil, fmt.Errorf("command %q: the value of {%s} has a NUL byte: %w", string(t), name, disk.ErrUnsupported)
		}
		pairs = append(pairs, "{"+name+"}", v)
	}
	r := strings.NewReplacer(pairs...)
	for i := range args {
		args[i] = r.Replace(args[i])
	}
	return args, nil
}

// split splits the template into arguments.
func (t Template) split() ([]string, error) {
	var args []string
	var arg strings.Builder
	open := false // an argument has begun
	var quote rune
	escaped := false
	for _, c := range string(t) {
		switch {
		case escaped:
			arg.WriteRune(c)
			escaped = false
		case c == '\\' && quote != '\'':
			escaped, open = true, true
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			arg.WriteRune(c)
		case c == '\'' || c == '"':
			quote, open = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if open {
				args = append(args, arg.String())
				arg.Reset()
			}
			open = false
		default:
			arg.WriteRune(c)
			open = true
		}
	}
	if quote != 0 || escaped {
		return nil, fmt.Errorf("command %q: a quote is not closed: %w", string(t), disk.ErrUnsupported)
	}
	if open {
		args = append(args, arg.String())
	}
	return args, nil
}
