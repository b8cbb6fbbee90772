// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package modules loads what an initramfs of package guestlab has in its directory of
// modules. It is linked into the init of guests.
package modules

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Load loads the modules of a directory in the order of their names, with parameters by
// the name of the module. One that is loaded already is no error.
func Load(dir string, parameters map[string]string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), parameters[moduleName(e.Name())], 0)
		_ = f.Close() // only read
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("module %s: %w", e.Name(), err)
		}
	}
	return nil
}

// moduleName takes the number and the suffix off a file's name.
func moduleName(file string) string {
	_, name, _ := strings.Cut(file, "-")
	return strings.TrimSuffix(name, ".ko")
}
