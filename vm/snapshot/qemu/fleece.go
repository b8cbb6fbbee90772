// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// prepareFleece makes the scratch file of a disk, with the disk below it.
func (s *session) prepareFleece(ctx context.Context, d *diskRecord, sizeBytes int64) error {
	if _, err := os.Lstat(d.Temp); err == nil { // QEMU would cut it to nothing
		return fmt.Errorf("%s: %w", d.Temp, fs.ErrExist)
	}
	if err := s.create(ctx, d.Job, args{"driver": "file", "filename": d.Temp, "size": 0}); err != nil {
		return fmt.Errorf("scratch file %s: %w", d.Temp, err)
	}
	if err := closeToOthers(d.Temp); err != nil {
		return err
	}
	if err := s.do(ctx, "blockdev-add", args{"driver": "file", "node-name": d.FileNode, "filename": d.Temp}); err != nil {
		return err
	}
	if err := s.create(ctx, d.Job, args{"driver": "qcow2", "file": d.FileNode, "size": sizeBytes}); err != nil {
		return fmt.Errorf("scratch file %s: %w", d.Temp, err)
	}
	return s.do(ctx, "blockdev-add", args{"driver": "qcow2", "node-name": d.TempNode, "file": d.FileNode, "backing": d.Node})
}

// closeToOthers takes the right to read a file that QEMU has made from others: a
// guest's data is in it, and QEMU makes files that all may read. It need not be
// where we can see it, nor ours.
func closeToOthers(path string) error {
	err := os.Chmod(path, 0o600)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

// fleeceAction fixes the moment of a disk: from then on the job saves what the
// guest overwrites. It never ends by itself, and never hides its end.
func fleeceAction(d *diskRecord) args {
	return action("blockdev-backup", args{
		"job-id": d.Job, "device": d.Node, "target": d.TempNode, "sync": "none",
		"on-source-error": "report", "on-target-error": "report", "auto-dismiss": false,
	})
}

// undoFleece removes the jobs and nodes of a disk.
func (s *session) undoFleece(ctx context.Context, d *diskRecord) error {
	if err := s.cancelJob(ctx, d.Job); err != nil {
		return err
	}
	return s.removeNodes(ctx, d.TempNode, d.FileNode)
}

// removeNodes removes nodes if they are there, in this order.
func (s *session) removeNodes(ctx context.Context, names ...string) error {
	there, err := s.nodes(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		if there[name] {
			if err := s.do(ctx, "blockdev-del", args{"node-name": name}); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeTemp removes a scratch file, or an overlay without content that matters.
func (s *session) removeTemp(d *diskRecord) error {
	if err := s.step("before removing"); err != nil {
		return err
	}
	if err := os.Remove(d.Temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.step("removed")
}
