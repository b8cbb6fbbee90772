// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// MaxConfigBytes is the largest configuration or snapshot list that is read.
const MaxConfigBytes = 4 << 20

const (
	maxLineBytes = 64 << 10
	// maxKeys bounds the memory that a file of very short lines takes: 4 MiB
	// of them would need hundreds. Real configurations have about 200.
	maxKeys = 1 << 16
	// maxBroken bounds how many unreadable lines are told one by one.
	maxBroken = 32

	configFormat = "vm configuration"
)

// Config is a parsed configuration: lines «key = "value"» in the grammar that
// .vmx, .cfg and .vmsd files share. It never changes, and all methods are safe
// for concurrent use.
//
// Keys are compared without case. Of a key that appears twice the first counts.
type Config struct {
	text    string // the file, every byte
	entries []entry
	first   map[string]int // folded key to its first entry
	count   map[string]int // how often, only of keys that appear more than once
	charset charset
	broken  []brokenLine
	// brokenCount counts those not kept in broken too.
	brokenCount int
}

// entry is a line with a key. Offsets are into Config.text.
type entry struct {
	key        string // as written
	raw        string // the value, without quotes, in the file's encoding, escapes untouched
	valueStart int    // of the value with its quotes
	valueEnd   int
}

// brokenLine is a line that is neither blank, a comment nor «key = "value"».
type brokenLine struct {
	number int    // counted from 1
	offset int    // of its first byte
	key    string // folded; empty if not even that can be read
	why    string
}

// ParseConfig parses a configuration. Lines that cannot be read are told by
// [Config.Warnings]; text in which no line can be read, bytes that are no text,
// and what exceeds the limits (4 MiB, 64 KiB a line, 65536 keys) are errors.
// Empty input is an empty configuration. b is not kept.
func ParseConfig(b []byte) (*Config, error) {
	if len(b) > MaxConfigBytes {
		return nil, configError("size", -1, disk.ErrUnsupported, "%d bytes, the limit is %d", len(b), MaxConfigBytes)
	}
	c := &Config{text: string(b), first: map[string]int{}, count: map[string]int{}}
	if i := strings.IndexByte(c.text, 0); i >= 0 {
		return nil, configError("text", int64(i), disk.ErrUnknown, "a zero byte: not a text file in UTF-8 or a single-byte encoding")
	}
	if err := c.scan(); err != nil {
		return nil, err
	}
	if len(c.entries) == 0 && c.brokenCount > 0 {
		return nil, configError("text", -1, disk.ErrUnknown, `not one line reads key = "value"`)
	}
	if i, ok := c.first[".encoding"]; ok {
		c.charset = charsetOf(c.entries[i].raw)
	}
	return c, nil
}

// scan splits the text into lines and the lines into entries.
func (c *Config) scan() error {
	start := 0
	if strings.HasPrefix(c.text, "\ufeff") { // the mark that Windows editors leave
		start = len("\ufeff")
	}
	for number := 1; start < len(c.text); number++ {
		end, next := len(c.text), len(c.text)
		if n := strings.IndexByte(c.text[start:], '\n'); n >= 0 {
			end, next = start+n, start+n+1
		}
		if end-start > maxLineBytes {
			return configError(fmt.Sprintf("line %d", number), int64(start), disk.ErrUnsupported, "%d bytes, the limit is %d", end-start, maxLineBytes)
		}
		p := scanLine(c.text[start:end])
		switch {
		case p.why != "":
			if c.brokenCount == maxKeys {
				return configError(fmt.Sprintf("line %d", number), int64(start), disk.ErrUnknown, "more than %d lines cannot be read", maxKeys)
			}
			c.addBroken(brokenLine{number: number, offset: start, key: fold(p.key), why: p.why})
		case p.key != "":
			if len(c.entries) == maxKeys {
				return configError(fmt.Sprintf("line %d", number), int64(start), disk.ErrUnsupported, "more than %d keys", maxKeys)
			}
			c.add(entry{key: p.key, raw: p.raw, valueStart: start + p.valueStart, valueEnd: start + p.valueEnd})
		}
		start = next
	}
	return nil
}

func (c *Config) add(e entry) {
	k := fold(e.key)
	if _, ok := c.first[k]; ok {
		c.count[k] = max(c.count[k], 1) + 1
	} else {
		c.first[k] = len(c.entries)
	}
	c.entries = append(c.entries, e)
}

func (c *Config) addBroken(b brokenLine) {
	c.brokenCount++
	// Lines that have a key are always kept, or a disk could get lost in them.
	if len(c.broken) < maxBroken || b.key != "" {
		c.broken = append(c.broken, b)
	}
}

// Get returns the value of a key as UTF-8, with |XX escapes decoded, and if the
// key is there. The value may be empty and may hold any character, NUL too.
func (c *Config) Get(key string) (string, bool) {
	raw, ok := c.raw(key)
	return c.charset.decode(unescapeBar(raw)), ok
}

// raw returns a value as it stands between its quotes.
func (c *Config) raw(key string) (string, bool) {
	i, ok := c.first[fold(key)]
	if !ok {
		return "", false
	}
	return c.entries[i].raw, true
}

// value returns the value of a key, trimmed, and "" if the key is not there.
func (c *Config) value(key string) string {
	v, _ := c.Get(key)
	return strings.TrimSpace(v)
}

// Bool returns the value of a key that is TRUE or FALSE in any case. ok is
// false if the key is not there or its value is neither.
func (c *Config) Bool(key string) (value, ok bool) {
	switch fold(c.value(key)) {
	case "true":
		return true, true
	case "false":
		return false, true
	default:
		return false, false
	}
}

// Keys returns every key once, as written and in the order of the file.
func (c *Config) Keys() []string {
	keys := make([]string, 0, len(c.first))
	for i, e := range c.entries {
		if c.first[fold(e.key)] == i {
			keys = append(keys, e.key)
		}
	}
	return keys
}

// Duplicates returns the keys that appear more than once, each once, in the
// order of the file. The first of each is the one that counts.
func (c *Config) Duplicates() []string {
	var keys []string
	for i, e := range c.entries {
		if k := fold(e.key); c.count[k] > 1 && c.first[k] == i {
			keys = append(keys, e.key)
		}
	}
	return keys
}

// DisplayName returns the name of the machine, "" if there is none. Beside |XX
// it decodes %25, %2f and %5c, by which vCenter writes %, / and \ in names.
// It is not fit to be a file name: see [SafeName].
func (c *Config) DisplayName() string {
	raw, _ := c.raw("displayName")
	return strings.TrimSpace(c.charset.decode(unescapeBar(unescapePercent(raw))))
}

// Encrypted reports if the configuration is encrypted: its keys, disks among
// them, are then inside encryption.data and cannot be read.
func (c *Config) Encrypted() bool {
	_, ok := c.first["encryption.keysafe"]
	return ok
}

// Warnings returns what is odd about the text: unreadable lines, keys that
// appear twice, an encoding that is not known. One line each, no file name.
func (c *Config) Warnings() []string {
	var w []string
	for _, b := range c.broken[:min(len(c.broken), maxBroken)] {
		w = append(w, fmt.Sprintf("line %d is ignored: %s", b.number, b.why))
	}
	if n := c.brokenCount - len(w); n > 0 {
		w = append(w, fmt.Sprintf("%d more lines are ignored", n))
	}
	for i, k := range c.Duplicates() {
		if i == maxBroken {
			w = append(w, "more keys appear twice")
			break
		}
		w = append(w, fmt.Sprintf("%s appears %d times: the first counts", k, c.count[fold(k)]))
	}
	if raw, _ := c.raw(".encoding"); c.charset == charsetOther {
		w = append(w, fmt.Sprintf("encoding %q is not known: names that are not ASCII may read wrong", raw))
	}
	return w
}

func configError(field string, offset int64, kind error, format string, args ...any) error {
	return &disk.FormatError{Format: configFormat, Field: oneLine(field), Offset: offset, Err: kind, Detail: oneLine(fmt.Sprintf(format, args...))}
}

// inFile puts the name of the file into an error that does not have it yet.
func inFile(err error, path string) error {
	var fe *disk.FormatError
	if !errors.As(err, &fe) || fe.File != "" {
		return err
	}
	named := *fe
	named.File = path
	return &named
}
