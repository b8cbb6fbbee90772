// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// findMachine fills in the id that the host has for the machine.
func (x *execRun) findMachine(ctx context.Context) error {
	out, err := x.command(ctx, x.rec.Commands.Machines, nil)
	if err != nil {
		return err
	}
	ids := machineIDs(out, x.rec.Config)
	if len(ids) != 1 {
		return fmt.Errorf("%s: the host lists %d machines with this configuration: %w", x.rec.Config, len(ids), fs.ErrNotExist)
	}
	x.rec.VMID = ids[0]
	return nil
}

// machineRow is a row of vim-cmd vmsvc/getallvms: Vmid, Name, and the file as
// [datastore] directory/name.vmx. Names may have blanks.
var machineRow = regexp.MustCompile(`^\s*([0-9]+)\s+.*?\[([^\]]+)\] (\S.*?\.vmx)(\s|$)`)

// volumes is where ESX has its datastores, by name.
const volumes = "/vmfs/volumes"

// machineIDs returns the ids of the machines in a list whose configuration is
// the file at path.
func machineIDs(list []byte, path string) []string {
	var ids []string
	st, statErr := os.Stat(path)
	for line := range bytes.Lines(list) {
		m := machineRow.FindSubmatch(bytes.TrimRight(line, "\r\n"))
		if m == nil {
			continue
		}
		id, volume, file := string(m[1]), string(m[2]), filepath.FromSlash(string(m[3]))
		if !strings.HasSuffix(path, string(filepath.Separator)+file) || !filepath.IsLocal(file) {
			continue
		}
		// The datastore's name is a link to its id, which may be what path has.
		other, err := os.Stat(filepath.Join(volumes, filepath.Base(volume), file))
		if err == nil && statErr == nil && !os.SameFile(st, other) {
			continue
		}
		ids = append(ids, id)
	}
	return ids
}

// findSnapshot fills in the id of the snapshot.
func (x *execRun) findSnapshot(ctx context.Context) error {
	if x.rec.Commands.List == "" {
		return nil
	}
	id, ok, err := x.lookUp(ctx)
	if err == nil && !ok {
		err = fmt.Errorf("the host does not list the snapshot %s: %w", x.rec.Snapshot, fs.ErrNotExist)
	}
	x.rec.SnapshotID = id
	return err
}

// lookUp asks the host for the id of the snapshot.
func (x *execRun) lookUp(ctx context.Context) (id string, ok bool, err error) {
	out, err := x.command(ctx, x.rec.Commands.List, nil)
	if err != nil {
		return "", false, err
	}
	ids := snapshotIDs(out, x.rec.Snapshot)
	switch len(ids) {
	case 0:
		return "", false, nil
	case 1:
		return ids[0], true, nil
	}
	return "", false, fmt.Errorf("the host lists %d snapshots called %s: %w", len(ids), x.rec.Snapshot, disk.ErrMismatch)
}

var snapshotID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]*$`)

// isSnapshotID reports if s may be an id: it becomes an argument of a command.
func isSnapshotID(s string) bool { return len(s) <= 64 && snapshotID.MatchString(s) }

// snapshotIDs returns the ids of the snapshots of a name in a list: lines "ID
// NAME", or pairs of lines of vim-cmd vmsvc/snapshot.get, "Snapshot Name : NAME"
// and "Snapshot Id : ID" with dashes before them for the depth.
func snapshotIDs(list []byte, name string) []string {
	var ids []string
	mine := false
	for line := range bytes.Lines(list) {
		s := strings.TrimSpace(strings.TrimLeft(strings.TrimSpace(string(line)), "-|"))
		key, value, ok := strings.Cut(s, ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "Snapshot Name":
			mine = ok && value == name
			continue
		case "Snapshot Id":
			if mine && isSnapshotID(value) {
				ids = append(ids, value)
			}
			mine = false
			continue
		}
		if id, rest, ok := strings.Cut(s, " "); ok && strings.TrimSpace(rest) == name && isSnapshotID(id) {
			ids = append(ids, id)
		}
	}
	return ids
}
