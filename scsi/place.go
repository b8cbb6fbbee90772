// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Place is where the bytes of a block device lie on a LUN.
type Place struct {
	LUN         LUN
	OffsetBytes int64 // of a partition on it
	SizeBytes   int64
}

// maxStack is how many block devices may lie on each other.
const maxStack = 8

// Place finds the LUN under a block device, which may be the disk itself, a partition of
// it, or paths to it that multipath has joined. ErrNoDevice says that there is no such
// LUN, or that it cannot be told where on it the bytes are.
func (s Sysfs) Place(node string) (Place, error) {
	st, err := os.Stat(node)
	if err != nil {
		return Place{}, err
	}
	dir, err := s.deviceDir(st)
	if err != nil {
		return Place{}, fmt.Errorf("%s: %w", node, err)
	}
	p, err := s.placeOf(dir, maxStack)
	if err != nil {
		return Place{}, fmt.Errorf("%s: %w", node, err)
	}
	p.SizeBytes = number(dir, "size") * 512
	return p, nil
}

// placeOf finds the LUN under the device that a directory of sysfs tells of.
func (s Sysfs) placeOf(dir string, depth int) (Place, error) {
	if depth == 0 {
		return Place{}, fmt.Errorf("more than %d devices on each other: %w", maxStack, ErrNoDevice)
	}
	if number(dir, "partition") > 0 {
		p, err := s.placeOf(filepath.Dir(dir), depth-1)
		p.OffsetBytes += number(dir, "start") * 512
		return p, err
	}
	uuid := text(dir, "dm", "uuid")
	parted := strings.HasPrefix(uuid, "part") && strings.Contains(uuid, "-mpath-")
	if strings.HasPrefix(uuid, "mpath-") || parted {
		if parted { // where it begins, sysfs does not tell
			return Place{}, fmt.Errorf("a partition of multipath: name the whole device: %w", ErrNoDevice)
		}
		return s.anySlave(dir, depth)
	}
	device, err := filepath.EvalSymlinks(filepath.Join(dir, "device"))
	if err != nil {
		return Place{}, fmt.Errorf("no SCSI device is under it: %w", ErrNoDevice)
	}
	a, err := ParseAddress(filepath.Base(device))
	if err != nil {
		return Place{}, fmt.Errorf("no SCSI device is under it: %w", ErrNoDevice)
	}
	return Place{LUN: s.read(a, device)}, nil
}

// anySlave finds the LUN by the first of the paths that has one.
func (s Sysfs) anySlave(dir string, depth int) (Place, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "slaves"))
	for _, e := range entries {
		var path string
		if path, err = filepath.EvalSymlinks(filepath.Join(dir, "slaves", e.Name())); err != nil {
			continue
		}
		var p Place
		if p, err = s.placeOf(path, depth-1); err == nil {
			return p, nil
		}
	}
	return Place{}, errors.Join(fmt.Errorf("multipath without a path: %w", ErrNoDevice), err)
}
