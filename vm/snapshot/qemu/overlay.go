// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vmstream/vmstream/disk"
)

// overlayAction fixes the moment of a disk: the guest goes on in a new file.
func overlayAction(d *diskRecord) args {
	return action("blockdev-snapshot-sync", args{
		"node-name": d.Node, "snapshot-file": d.Temp, "snapshot-node-name": d.TempNode, "format": "qcow2", "mode": "absolute-paths",
	})
}

// top returns the node that the disk's device is on.
func (s *session) top(ctx context.Context, d *diskRecord) (string, error) {
	list, err := s.query(ctx)
	if err != nil {
		return "", err
	}
	for _, b := range list {
		if b.QDev == d.Device && b.Inserted != nil {
			return b.Inserted.Node, nil
		}
	}
	return "", fmt.Errorf("%s: the device %s is gone: %w", d.Key, d.Device, disk.ErrMismatch)
}

// undoOverlay commits the overlay of a disk, however long that takes, and
// removes it. The caller knows that QEMU is the process that made it.
func (s *session) undoOverlay(ctx context.Context, d *diskRecord) error {
	top, err := s.top(ctx, d)
	if err != nil {
		return err
	}
	if top == d.TempNode {
		if err := s.commit(ctx, d); err != nil {
			return fmt.Errorf("%s: the guest goes on in %s, which could not be committed into %s: %w; vmstream snapshot reap tries again", d.Key, d.Temp, d.File, err)
		}
		if top, err = s.top(ctx, d); err != nil {
			return err
		}
	}
	if top != d.Node {
		return fmt.Errorf("%s: the guest's disk is on %s, neither on %s nor on its overlay: %w; nothing was done", d.Key, top, d.Node, disk.ErrMismatch)
	}
	// What was a job of ours may be there still, as concluded.
	if err := s.cancelJob(ctx, d.Job); err != nil {
		return err
	}
	return s.removeNodes(ctx, d.TempNode)
}

// commit merges an overlay that is in use into its base, and puts the guest back
// on that. A job that is there already is carried on.
func (s *session) commit(ctx context.Context, d *diskRecord) error {
	j, err := s.job(ctx, d.Job)
	if err != nil {
		return err
	}
	if j == nil {
		s.detail(fmt.Sprintf("%s: committing %s", d.Key, d.Temp))
		err := s.do(ctx, "block-commit", args{"job-id": d.Job, "device": d.TempNode, "base-node": d.Node, "auto-dismiss": false})
		if err != nil {
			return err
		}
	}
	completed := false
	return s.waitJob(ctx, d.Job, func() error {
		if completed {
			return nil
		}
		completed = true
		return s.do(ctx, "job-complete", args{"id": d.Job})
	})
}

// orphan tells what to do about overlays whose QEMU is gone: what the guest wrote
// is in them, and only the operator knows what the machine was started from since.
func (r *record) orphan() error {
	var errs []error
	for _, d := range r.Disks {
		if _, err := os.Lstat(d.Temp); err != nil {
			continue
		}
		errs = append(errs, fmt.Errorf("%s: %s has what the guest wrote since %s stood still, and the QEMU that did it is gone: %w. Nothing was done. "+
			"If the machine has not run since, or runs on the overlay, stop it and run: qemu-img commit -d -f qcow2 %s (and remove the file). "+
			"If it has been started from %s without the overlay, the two have parted: committing would damage the disk, so save the overlay and remove it",
			d.Key, d.Temp, filepath.Base(d.File), disk.ErrMismatch, d.Temp, d.File))
	}
	return errors.Join(errs...)
}
