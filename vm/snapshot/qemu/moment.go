// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm/guestagent"
	"github.com/vmstream/vmstream/vm/snapshot"
)

// safeIOThreads is the first QEMU whose NBD server runs in iothreads too. Those
// before it end with an assertion, and the guest with them, when a client of an
// export in an iothread goes away, whatever it goes away for: 7.2.22 does.
const safeIOThreads = 9

// noIOThreads refuses a machine that our end would be the end of.
func (t *taking) noIOThreads(ctx context.Context) error {
	if t.Version().Major >= safeIOThreads {
		return nil
	}
	var threads []struct {
		ID string `json:"id"`
	}
	if err := t.Run(ctx, "query-iothreads", nil, &threads); err != nil {
		return err
	}
	if len(threads) > 0 {
		return fmt.Errorf("the machine has the iothread %s, and QEMU %s would crash when its disks have been read over NBD: %w; it takes QEMU %d, or the machine without iothreads",
			threads[0].ID, t.Version(), disk.ErrUnsupported, safeIOThreads)
	}
	return nil
}

// moment fixes the point in time of all disks in one transaction, and freezes the
// guest's file systems for it.
func (t *taking) moment(ctx context.Context) error {
	var actions, bitmaps []args
	for i, d := range t.rec.Disks {
		if t.rec.Mode == Fleece {
			actions = append(actions, fleeceAction(d))
		} else {
			actions = append(actions, overlayAction(d))
		}
		bitmaps = append(bitmaps, d.bitmapActions(t.disks[i].persistent)...)
	}
	actions = append(actions, bitmaps...)
	agent := t.dialAgent(ctx)
	if agent != nil {
		defer agent.Close()
	}
	if err := t.save(phaseMoment); err != nil {
		return err
	}
	err := t.r.Moment(ctx, func(ctx context.Context) error {
		thaw := t.freeze(ctx, agent)
		err := t.transaction(ctx, actions)
		t.snap.Taken = time.Now()
		if errors.Is(err, errKilled) {
			return err
		}
		thaw(err == nil)
		return err
	})
	if err != nil || t.rec.Mode == Fleece {
		return err
	}
	for _, d := range t.rec.Disks { // the transaction has made them
		if err := closeToOthers(d.Temp); err != nil {
			return err
		}
	}
	return nil
}

// dialAgent connects to the guest agent; nil if there is none that answers.
func (t *taking) dialAgent(ctx context.Context) *guestagent.Client {
	if t.opt.Agent == "" {
		return nil
	}
	agent, err := guestagent.Dial(ctx, t.opt.Agent)
	if err != nil {
		t.warn(fmt.Sprintf("file systems are not frozen: %v", err))
		return nil
	}
	return agent
}

// freeze freezes the guest's file systems and returns what thaws them and notes
// the consistency that was reached.
func (t *taking) freeze(ctx context.Context, agent *guestagent.Client) (thaw func(taken bool)) {
	if agent == nil {
		return func(bool) {}
	}
	t.frozen = true
	f, err := agent.Freeze(ctx, t.opt.FreezeLimit, t.opt.MountPoints...)
	if err != nil {
		t.frozen = !errors.Is(err, guestagent.ErrFrozen) // that is for others to thaw
		t.warn(fmt.Sprintf("file systems are not frozen: %v", err))
		return func(bool) {}
	}
	return func(taken bool) {
		took, err := f.Thaw(ctx)
		t.frozen = err != nil
		switch {
		case err != nil:
			t.warn(fmt.Sprintf("file systems may not have been frozen at the moment of the snapshot: %v", err))
		case taken:
			t.snap.Consistency = snapshot.Filesystem
			t.detail(fmt.Sprintf("%d file systems were frozen for %v", f.FileSystems, took.Round(time.Millisecond)))
		}
	}
}
