// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"fmt"
	"strings"

	"github.com/vmstream/vmstream/vm"
)

// adjustment is what a copy of a configuration has to say otherwise.
type adjustment struct {
	disks    map[string]string // names of the files by key of the disk
	keepDirs bool              // a name with a directory stays if the file is called the same
	name     string            // new display name, "" to leave it
}

// changes returns what has to be edited in c.
func (a *adjustment) changes(c *vm.Config) map[string]string {
	out := map[string]string{}
	for disk, name := range a.disks {
		key := disk + ".fileName"
		was, ok := c.Get(key)
		if !ok {
			key = disk + ".name" // ESX 2.x
			was, ok = c.Get(key)
		}
		same := was == name || a.keepDirs && was[strings.LastIndexAny(was, `/\:`)+1:] == name
		if ok && !same {
			out[key] = name
		}
		if redo, _ := c.Get(disk + ".redo"); redo != "" { // what was written is the disk with its redo logs
			out[disk+".redo"] = ""
		}
	}
	if was, _ := c.Get("displayName"); a.name != "" && was != a.name {
		out["displayName"] = a.name
	}
	return out
}

// apply returns the configuration b with the changes, b itself if there are
// none. What cannot be changed is left as it was, with a warning.
func (a *adjustment) apply(b []byte, file string, warn func(string)) []byte {
	c, err := vm.ParseConfig(b)
	if err != nil {
		warn(fmt.Sprintf("%s: left as it was: %v", file, err))
		return b
	}
	changes := a.changes(c)
	if len(changes) == 0 {
		return b
	}
	edited, err := c.Edit(changes)
	if err != nil {
		warn(fmt.Sprintf("%s: the names of the disks could not be changed: %v", file, err))
		return b
	}
	return edited
}
