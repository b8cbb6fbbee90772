// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/redo"
	"github.com/vmstream/vmstream/vmdk"
)

// RedoOptions returns o for the levels of a disk of the machine: what its files
// are, and how its configuration is made to name another top.
func (vm *VM) RedoOptions(d *Disk, o redo.Options) redo.Options {
	o.Role, o.Config = vmdk.RoleConfigured, vm.Path
	if d.Raw || d.RedoLogs > 0 {
		o.Format = vmdk.SourceRaw
	}
	o.Switch = switcher(vm.Path, d.Key)
	return o
}

// switcher returns a function that makes a configuration name another top of
// a disk. The file is read anew each time: it is changed only if it still says
// what it is expected to.
func switcher(config, diskKey string) func(from, to string) error {
	return func(from, to string) error {
		esx2 := strings.HasSuffix(from, redoSuffix) || strings.HasSuffix(to, redoSuffix)
		key := diskKey + ".fileName"
		if esx2 {
			key = diskKey + ".redo"
		}
		b, err := os.ReadFile(config)
		if err != nil {
			return err
		}
		c, err := ParseConfig(b)
		if err != nil {
			return fmt.Errorf("%s: %w", config, err)
		}
		now, ok := c.Get(key)
		if esx2 && now == "" { // it notes no redo log: the names say it
			return nil
		}
		value, err := renamed(now, from, to, esx2)
		if err != nil || !ok {
			return fmt.Errorf("%s: %s: %w", config, key, errors.Join(err, disk.ErrMismatch))
		}
		if value == now {
			return nil
		}
		edited, err := c.Edit(map[string]string{key: value})
		if err != nil {
			return fmt.Errorf("%s: %w", config, err)
		}
		return redo.ReplaceFile(redo.OS(), config, edited)
	}
}

// renamed returns how the configuration is to name the file to, where it names
// from, or to already.
func renamed(now, from, to string, esx2 bool) (string, error) {
	n, err := ParseFileName(now)
	if err != nil {
		return "", err
	}
	toBase := filepath.Base(to)
	if esx2 && !strings.HasSuffix(to, redoSuffix) {
		return "", nil // the base: there is no redo log
	}
	if !slices.Contains([]string{filepath.Base(from), toBase}, n.Base) {
		return "", fmt.Errorf("it names %q, neither %s nor %s", now, filepath.Base(from), toBase)
	}
	if n.Base == toBase {
		return now, nil
	}
	if filepath.Dir(from) != filepath.Dir(to) {
		return to, nil
	}
	return strings.TrimSuffix(now, n.Base) + toBase, nil
}
