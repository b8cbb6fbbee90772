// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package integrate

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vmstream/vmstream/stream"
)

// MaxAmandaLevel is the highest level that Amanda asks for.
const MaxAmandaLevel = 9

// AmandaCall is how Amanda has called the application.
type AmandaCall struct {
	Command              string
	Config, Host, Disk   string
	Device               string // what the disklist names to be backed up
	Level                int
	Message, Index       string
	Record               bool
	Target               string   // of a restore
	VM, StateDir, Format string   // properties
	Options              []string // further arguments of backup
	Unknown              []string // options and properties that mean nothing here
}

// amandaWords are the options that take no value.
var amandaWords = []string{"record", "collection", "calcsize"}

// amandaIgnored are options of Amanda's that this application has no use for.
var amandaIgnored = []string{
	"collection", "calcsize", "timestamp", "execute-where", "recover-mode", "recover-path", "dar", "server-backup-type",
	"storage", "amandates", "client-estimate", "data-path", "ndmp-auth",
}

// ParseAmanda reads the arguments of a call: a command, and options as --name
// value or --name=value. Properties look like options. What is not known is
// kept, for selfcheck to complain of.
func ParseAmanda(args []string) (*AmandaCall, error) {
	if len(args) == 0 {
		return nil, errors.New("the command is missing")
	}
	c := &AmandaCall{Command: args[0]}
	for args = args[1:]; len(args) > 0; {
		name, ok := strings.CutPrefix(args[0], "--")
		if !ok { // as the files that a restore is to bring: all are restored
			args = args[1:]
			continue
		}
		args = args[1:]
		name, value, given := strings.Cut(name, "=")
		if name = strings.ReplaceAll(name, "_", "-"); slices.Contains(amandaWords, name) {
			given = true
		}
		if !given && len(args) > 0 {
			value, args = args[0], args[1:]
		}
		if err := c.set(name, value); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *AmandaCall) set(name, value string) error {
	texts := map[string]*string{
		"config": &c.Config, "host": &c.Host, "disk": &c.Disk, "device": &c.Device, "message": &c.Message, "index": &c.Index,
		"target": &c.Target, "directory": &c.Target, "vm": &c.VM, "state-dir": &c.StateDir, "format": &c.Format,
	}
	switch to, ok := texts[name]; {
	case ok:
		*to = value
	case name == "option":
		c.Options = append(c.Options, value)
	case name == "record":
		c.Record = true
	case name == "level":
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 || n > MaxAmandaLevel {
			return fmt.Errorf("--level %q: 0 to %d", value, MaxAmandaLevel)
		}
		c.Level = n
	case !slices.Contains(amandaIgnored, name):
		c.Unknown = append(c.Unknown, name)
	}
	return nil
}

// Source returns what is to be backed up.
func (c *AmandaCall) Source() string {
	switch {
	case c.VM != "":
		return c.VM
	case c.Device != "":
		return c.Device
	}
	return c.Disk
}

// AmandaLevels has the indexes of the last recorded dumps of a disk, one for each
// level.
type AmandaLevels struct{ dir string }

// OpenAmandaLevels returns the levels of what the call is about, below the
// state directory. Nothing is made.
func OpenAmandaLevels(c *AmandaCall) (*AmandaLevels, error) {
	dir := filepath.Join(c.StateDir, "levels")
	for _, part := range []string{c.Config, c.Host, c.Disk} {
		name := url.QueryEscape(part)
		if name == "" || name == "." || name == ".." || len(name) > 255 {
			return nil, fmt.Errorf("%q is no name for a configuration, a host or a disk", part)
		}
		dir = filepath.Join(dir, name)
	}
	return &AmandaLevels{dir: dir}, nil
}

func (l *AmandaLevels) path(level int) string {
	return filepath.Join(l.dir, "level-"+strconv.Itoa(level)+".index")
}

// Begin returns where the index of the dump that begins now goes.
func (l *AmandaLevels) Begin() (string, error) {
	return filepath.Join(l.dir, "next.index"), os.MkdirAll(l.dir, 0o700)
}

// Parent returns the index of the last dump of a lower level, or "" if there is
// none.
func (l *AmandaLevels) Parent(level int) string {
	for level--; level >= 0; level-- {
		if _, err := os.Stat(l.path(level)); err == nil {
			return l.path(level)
		}
	}
	return ""
}

// Record makes the dump that Begin was for the last one of its level. Those of
// higher levels are none any more that a later one is on.
func (l *AmandaLevels) Record(level int) error {
	for higher := level + 1; higher <= MaxAmandaLevel; higher++ {
		if err := os.Remove(l.path(higher)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Rename(filepath.Join(l.dir, "next.index"), l.path(level))
}

// Forget drops the dump that Begin was for.
func (l *AmandaLevels) Forget() { _ = os.Remove(filepath.Join(l.dir, "next.index")) }

// AmandaIndex returns the lines of Amanda's index for a backup: the VM's files, and
// of each disk its descriptor.
func AmandaIndex(o *stream.Opening) []string {
	var lines []string
	for i := range o.Files {
		lines = append(lines, "/"+o.VMName()+"/"+o.Files[i].Name)
	}
	for i := range o.Disks {
		lines = append(lines, "/"+o.VMName()+"/"+o.Disks[i].File)
	}
	return lines
}
