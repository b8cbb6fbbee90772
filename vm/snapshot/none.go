// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
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
	ts, err := r.targets()
	if err != nil {
		return nil, err
	}
	if err := r.checkRunning(); err != nil {
		return nil, err
	}
	s := &Snapshot{Consistency: r.consistency()}
	var files still
	err = r.Moment(ctx, func(context.Context) error {
		var err error
		if s.Disks, err = openAll(ts, r); err != nil {
			return err
		}
		if files, err = watch(s.Disks); err != nil || r.AllowInUse {
			return err
		}
		if err := files.checkWriters(); err != nil {
			return fmt.Errorf("%w, use a snapshot, or say --allow-in-use", err)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, closeAll(s.Disks))
	}
	s.Stall = 0 // nobody waits
	s.OnCheck = func(context.Context) error {
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
		return files.checkWriters()
	}
	return s, nil
}

// Reap has nothing to undo.
func (None) Reap(_ context.Context, e *Entry, _ func(string)) error { return e.End() }
