// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/vmstream/vmstream/disk"
)

// remove removes the snapshot, as far as there is one, and looks if its levels
// are gone. It may be called again, whatever became of earlier calls.
func (x *execRun) remove(ctx context.Context) error {
	if !x.rec.Begun {
		return nil
	}
	err := x.tryRemove(ctx)
	if err != nil {
		return fmt.Errorf("the snapshot %s of %s may stay: %w; run vmstream snapshot reap %s later", x.rec.Snapshot, x.rec.Config, err, x.e.Record().ID)
	}
	return nil
}

func (x *execRun) tryRemove(ctx context.Context) error {
	over, err := x.over()
	if err != nil {
		return err
	}
	listed := false
	if x.rec.Commands.List != "" {
		if x.rec.SnapshotID, listed, err = x.lookUp(ctx); err != nil {
			return err
		}
	}
	there := 0
	for _, n := range over {
		if n >= 0 {
			there++
		}
	}
	x.seen = x.seen || there > 0 || listed
	switch {
	case there == 0 && !listed:
		return nil
	case x.rec.Commands.List != "" && !listed:
		return fmt.Errorf("the host does not list it, but there are levels of it, which its own tools have to consolidate: %w", disk.ErrMismatch)
	}
	if err := x.e.Save(execRemoving, x.rec); err != nil && x.line != nil {
		x.line(notNoted(err)) // looking at the disks tells the same
	}
	if err := x.runRemove(ctx, over); err != nil {
		// A command may fail and have done its work all the same.
		return errors.Join(err, x.gone())
	}
	return x.await(ctx, x.gone)
}

// over tells for each disk how many levels lie over that of the snapshot, -1 if
// it has none of it. A level that was not noted is the one over the former top.
func (x *execRun) over() ([]int, error) {
	all, err := x.disks()
	if err != nil {
		return nil, err
	}
	out := make([]int, len(all))
	for i, d := range x.rec.Disks {
		links := all[i]
		out[i] = findLink(links, d.Parent) - 1
		switch {
		case out[i] < -1:
			return nil, fmt.Errorf("disk %s: %s is no level of it any more: %w", d.Key, d.Parent, disk.ErrMismatch)
		case out[i] >= 0 && d.Level != "" && links[out[i]] != d.Level:
			out[i] = -1 // somebody else's
		}
	}
	return out, nil
}

func (x *execRun) runRemove(ctx context.Context, over []int) error {
	c := x.rec.Commands.Remove
	if !c.has("disk") && !c.has("level") {
		_, err := x.command(ctx, c, nil)
		return err
	}
	var errs []error
	for i, d := range x.rec.Disks {
		if over[i] < 0 {
			continue
		}
		if _, err := x.command(ctx, c, map[string]string{"disk": d.Key, "level": strconv.Itoa(over[i])}); err != nil {
			errs = append(errs, fmt.Errorf("disk %s: %w", d.Key, err))
		}
	}
	return errors.Join(errs...)
}

// roll merges what lies between the base and the new levels into the base.
func (x *execRun) roll(ctx context.Context) error {
	err := x.tryRoll(ctx)
	if err != nil {
		return fmt.Errorf("the former redo logs of %s may stay: %w; run vmstream snapshot reap %s later", x.rec.Config, err, x.e.Record().ID)
	}
	return nil
}

func (x *execRun) tryRoll(ctx context.Context) error {
	if err := x.e.Save(execRolling, x.rec); err != nil {
		return err
	}
	all, err := x.disks()
	if err != nil {
		return err
	}
	var errs []error
	for i, d := range x.rec.Disks {
		// How many levels there are tells if it has been done: names may move.
		if d.Links < 2 || len(all[i]) <= d.Links {
			continue
		}
		if len(all[i]) > d.Links+1 {
			errs = append(errs, fmt.Errorf("disk %s: somebody has added a level to it: %w", d.Key, disk.ErrMismatch))
			continue
		}
		level := strconv.Itoa(len(all[i]) - 2) // from above: all but the base and the one over it
		if _, err := x.command(ctx, x.rec.Commands.Remove, map[string]string{"disk": d.Key, "level": level}); err != nil {
			errs = append(errs, fmt.Errorf("disk %s: %w", d.Key, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return errors.Join(err, x.rolled())
	}
	return x.await(ctx, x.rolled)
}

// rolled fails if there is more than the new level over a base.
func (x *execRun) rolled() error {
	all, err := x.disks()
	if err != nil {
		return err
	}
	for i, d := range x.rec.Disks {
		if len(all[i]) > max(d.Links, 2) {
			return fmt.Errorf("disk %s: it still has %d levels: %w", d.Key, len(all[i]), disk.ErrMismatch)
		}
	}
	return nil
}

// gone fails if there is a level of the snapshot.
func (x *execRun) gone() error {
	over, err := x.over()
	if err != nil {
		return err
	}
	for i, n := range over {
		if n >= 0 {
			return fmt.Errorf("disk %s: the level over %s is still there: %w", x.rec.Disks[i].Key, x.rec.Disks[i].Parent, disk.ErrMismatch)
		}
	}
	return nil
}
