// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"errors"
	"fmt"

	"github.com/vmstream/vmstream/disk"
)

// ErrMissingDevice says that a volume has more devices than were given.
var ErrMissingDevice = errors.New("a device of the volume is missing")

// ErrNoVolume says that there is no VMFS volume on the devices.
var ErrNoVolume = errors.New("no VMFS volume")

// ErrSymlink says that a path leads through a symbolic link: their targets are paths
// of an ESX host, so they are not followed.
var ErrSymlink = errors.New("symbolic link")

// corrupt is an error about the logical volume; off is in it, -1 for none.
func (v *volume) corrupt(field string, off int64, format string, args ...any) error {
	return v.fail(disk.ErrCorrupt, field, off, format, args...)
}

// fail tells where on which device something is wrong.
func (v *volume) fail(kind error, field string, off int64, format string, args ...any) error {
	e := &disk.FormatError{Format: "VMFS", Field: field, Offset: -1, Err: kind, Detail: fmt.Sprintf(format, args...)}
	if off >= 0 {
		if m, at, ok := v.find(off); ok {
			e.File, e.Offset = v.devices[m.device].Name, at
		}
	}
	return e
}
