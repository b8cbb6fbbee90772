// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm

import (
	"maps"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// Edit returns the configuration with the given keys set to the given values,
// which are UTF-8 text. Every byte of other lines stays as it was, and of a
// changed line everything but the value; keys that are not there are appended
// in sorted order. No change at all returns the file as it is.
//
// Refused are a key that appears twice, because products differ in which of the
// two counts; a key whose line cannot be read; .encoding, which says how every
// other line reads; and a value that the file's encoding cannot hold.
func (c *Config) Edit(changes map[string]string) ([]byte, error) {
	type patch struct {
		start, end int
		text       string
	}
	var patches []patch
	var appended strings.Builder
	seen := map[string]string{}
	eol := c.lineEnd()
	for _, key := range slices.Sorted(maps.Keys(changes)) {
		if other, ok := seen[fold(key)]; ok {
			return nil, configError(key, -1, disk.ErrMismatch, "is asked for twice, as %s too", other)
		}
		seen[fold(key)] = key
		if err := c.editable(key); err != nil {
			return nil, err
		}
		value, err := c.charset.encode(changes[key])
		if err != nil {
			return nil, configError(key, -1, disk.ErrUnsupported, "%v", err)
		}
		quoted := `"` + escapeBar(value) + `"`
		if len(key)+len(quoted)+len(" = ") > maxLineBytes {
			return nil, configError(key, -1, disk.ErrUnsupported, "the line would exceed %d bytes", maxLineBytes)
		}
		if i, ok := c.first[fold(key)]; ok {
			e := c.entries[i]
			patches = append(patches, patch{e.valueStart, e.valueEnd, quoted})
			continue
		}
		appended.WriteString(key + " = " + quoted + eol)
	}
	slices.SortFunc(patches, func(a, b patch) int { return a.start - b.start })
	var b []byte
	pos := 0
	for _, p := range patches {
		b = append(b, c.text[pos:p.start]...)
		b = append(b, p.text...)
		pos = p.end
	}
	b = append(b, c.text[pos:]...)
	if appended.Len() > 0 {
		if len(b) > 0 && b[len(b)-1] != '\n' {
			b = append(b, eol...)
		}
		b = append(b, appended.String()...)
	}
	if err := c.checkEdited(b, changes); err != nil {
		return nil, err
	}
	return b, nil
}

// editable says if a key may be changed.
func (c *Config) editable(key string) error {
	k := fold(key)
	switch {
	case !isKey(key):
		return configError(key, -1, disk.ErrUnsupported, "not a key: a letter or a dot, then letters, digits and _ . : -")
	case k == ".encoding":
		return configError(key, -1, disk.ErrUnsupported, "changing it would change how every other line reads")
	case c.Encrypted():
		return configError(key, -1, disk.ErrUnsupported, "the configuration is encrypted")
	case c.count[k] > 1:
		return configError(key, -1, disk.ErrCorrupt, "appears %d times: remove all but one first", c.count[k])
	}
	for _, b := range c.broken {
		if b.key == k {
			return configError(key, int64(b.offset), disk.ErrCorrupt, "line %d cannot be read: %s", b.number, b.why)
		}
	}
	return nil
}

// checkEdited reads the result back: a change that does not read as what was
// asked for, or a file that got too large, must not reach a disk.
func (c *Config) checkEdited(b []byte, changes map[string]string) error {
	edited, err := ParseConfig(b)
	if err != nil {
		return err
	}
	for key, want := range changes {
		if got, _ := edited.Get(key); got != want {
			return configError(key, -1, disk.ErrMismatch, "reads %q after the change, not %q", got, want)
		}
	}
	return nil
}

// lineEnd returns how the file ends its lines.
func (c *Config) lineEnd() string {
	if i := strings.IndexByte(c.text, '\n'); i > 0 && c.text[i-1] == '\r' {
		return "\r\n"
	}
	return "\n"
}
