// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"path/filepath"
	"strings"

	"github.com/vmstream/vmstream/vm"
)

// fileNames hands out names for the members of a stream, each once.
type fileNames map[string]bool

func (n fileNames) take(name string) bool {
	if n[name] {
		return false
	}
	n[name] = true
	return true
}

// disk returns the name of a disk's descriptor: what the configuration uses,
// with the key where two would collide.
func (n fileNames) disk(base, key string) string {
	stem := base
	if ext := strings.ToLower(filepath.Ext(base)); ext == ".vmdk" || ext == ".dsk" {
		stem = base[:len(base)-len(ext)]
	}
	stem = vm.SafeName(stem)
	if name := stem + ".vmdk"; !n.clashes(stem) && n.take(name) {
		return name
	}
	stem += "-" + strings.ReplaceAll(key, ":", "-")
	n.take(stem + ".vmdk")
	return stem + ".vmdk"
}

// clashes reports if an extent of one of two disks could have the name of the
// other's descriptor.
func (n fileNames) clashes(stem string) bool {
	for other := range n {
		other, ok := strings.CutSuffix(other, ".vmdk")
		if ok && (extentOf(stem, other) || extentOf(other, stem)) {
			return true
		}
	}
	return false
}

func extentOf(name, stem string) bool {
	digits, ok := strings.CutPrefix(name, stem+"-s")
	return ok && digits != "" && strings.Trim(digits, "0123456789") == ""
}
