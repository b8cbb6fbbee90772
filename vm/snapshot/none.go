// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmstream/vmstream/disk"
)

// NoneName is the name of the provider None.
const NoneName = "none"

// None takes the files as they are, of a machine that is powered off or that
// somebody else holds still. It leaves nothing behind.
type None struct{}

// Name returns "none".
func (None) Name() string { return NoneName }

// Create opens the disks. It refuses a machine that seems to be running, and
// files that somebody has open for writing, unless the request allows it.
// Check of the snapshot then fails if a file has changed; it only warns if use
// was allowed.
func (None) Create(ctx context.Context, r *Request, _ *Entry) (*Snapshot, error) {
	if r.Before != nil || r.After != nil {
		return nil, fmt.Errorf("%s fixes no point in time that something could run around: %w", NoneName, disk.ErrUnsupported)
	}
	ts, err := r.targets()
	if err != nil {
		return nil, err
	}
	if err := r.checkRunningOn(ctx, r.Open.Tree); err != nil {
		return nil, err
	}
	s := &Snapshot{Consistency: r.consistency()}
	if s.Disks, err = openAll(ts, r); err != nil {
		return nil, err
	}
	files, err := watch(r.Open.Tree, s.Disks)
	if err == nil && !r.AllowInUse {
		if err = files.checkWriters(ctx); err != nil {
			err = fmt.Errorf("%w, use a snapshot, or say --allow-in-use", err)
		}
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, closeAll(s.Disks))
	}
	s.OnCheck = func(ctx context.Context) error {
		err := files.changed()
		switch {
		case err != nil && r.AllowInUse:
			r.Warn(err.Error())
			return nil
		case err != nil:
			return err
		case r.AllowInUse:
			return nil
		}
		return files.checkWriters(ctx)
	}
	return s, nil
}

// Reap has nothing to undo.
func (None) Reap(_ context.Context, e *Entry, _ Voice) error { return e.End() }
