// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/vmstream/vmstream/vm/guestagent"
	"github.com/vmstream/vmstream/vm/qmp"
	"github.com/vmstream/vmstream/vm/snapshot"
)

// Reap undoes what a run has left that is gone.
func (p *Provider) Reap(ctx context.Context, e *snapshot.Entry, to snapshot.Voice) error {
	rec, err := load(e)
	if err != nil {
		return err
	}
	if rec.Socket == "" { // killed before anything was made
		return e.End()
	}
	s := &session{rec: rec, entry: e, hook: p.hook, warn: to.Warn, detail: to.Detail}
	s.frozen = e.Record().Phase == phaseMoment // nobody knows
	s.Client, err = qmp.Dial(ctx, rec.Socket)
	if gone(err) {
		return s.withoutQEMU()
	}
	if err != nil {
		return err
	}
	if err = s.undo(ctx, e.Record().Phase == phaseDone); err == nil {
		s.resume(ctx) // when nobody looked after the room, the guest may have been stopped for want of it
	}
	return errors.Join(err, s.Close())
}

// gone reports if nobody listens on the socket any more.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// withoutQEMU undoes what is left when QEMU has ended. Scratch files are of no
// use without it. Bitmaps need nothing: those of before and the new one together
// have everything, and an increment takes all of them.
func (s *session) withoutQEMU() error {
	if s.rec.Mode == Overlay && s.entry.Record().Phase != phasePrepare {
		if err := s.rec.orphan(); err != nil {
			return err
		}
	}
	return s.finish()
}

// undo removes everything that this snapshot has made. done says that the backup
// is complete. It looks at what is there, so it can begin at any point.
func (s *session) undo(ctx context.Context, done bool) error {
	phase := phaseFailed
	if done {
		phase = phaseDone
	}
	moment := s.entry.Record().Phase
	if s.frozen {
		s.thaw(ctx)
	}
	if moment != "" && moment != phasePrepare { // nothing can be told by it otherwise
		switch err := s.save(phase); {
		case errors.Is(err, errKilled):
			return err
		case err != nil: // a full disk is a reason to remove a snapshot, not to leave it
			s.warn(fmt.Sprintf("how far it has come is not noted: %v", err))
		}
	}
	if err := s.letGo(ctx); err != nil {
		return err
	}
	if err := s.each(func(d *diskRecord) error { return s.settle(ctx, d, done) }); err != nil {
		return fmt.Errorf("dirty bitmaps: %w", err)
	}
	if err := s.removeNodes(ctx, s.rec.Marker); err != nil {
		return err
	}
	return s.finish()
}

// letGo puts the guest back on its disks as they were, and ends what saves what it
// overwrites. It does not matter what becomes of the backup. Like undo it can begin
// at any point.
func (s *session) letGo(ctx context.Context) error {
	if err := s.stopServer(ctx); err != nil {
		return fmt.Errorf("end the NBD exports: %w", err)
	}
	there, err := s.nodes(ctx)
	if err != nil {
		return err
	}
	moment := s.entry.Record().Phase
	switch {
	case s.rec.Mode == Fleece:
		err = s.each(func(d *diskRecord) error { return s.undoFleece(ctx, d) })
	case there[s.rec.Marker]:
		err = s.each(func(d *diskRecord) error { return s.undoOverlay(ctx, d) })
	case moment != "" && moment != phasePrepare:
		err = s.rec.orphan() // another QEMU than the one that made them
	}
	if err != nil {
		return err
	}
	if err := s.each(s.removeTemp); err != nil {
		return err
	}
	return s.rec.removeServerDir()
}

// each does something for all disks, also if it fails for one.
func (s *session) each(do func(*diskRecord) error) error {
	var errs []error
	for _, d := range s.rec.Disks {
		err := do(d)
		if errors.Is(err, errKilled) {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// finish removes files and ends the entry.
func (s *session) finish() error {
	if err := s.each(s.removeTemp); err != nil {
		return err
	}
	if err := s.rec.removeServerDir(); err != nil {
		return err
	}
	if err := s.step("before end"); err != nil {
		return err
	}
	return s.entry.End()
}

// thaw thaws a guest that may have been left frozen, by a run that was killed in
// its moment. One that is not frozen is left alone. What goes wrong is only told:
// the snapshot has to go all the same.
func (s *session) thaw(ctx context.Context) {
	if s.rec.Agent == "" {
		return
	}
	var refused *qmp.Error
	err := s.tryThaw(ctx)
	switch {
	case errors.As(err, &refused) && refused.Command == "guest-fsfreeze-status":
		s.detail(fmt.Sprintf("%v: it was not frozen", err)) // the status comes first
	case err != nil:
		s.warn(fmt.Sprintf("the guest may still be frozen: %v", err))
		return
	}
	s.frozen = false
}

func (s *session) tryThaw(ctx context.Context) error {
	c, err := guestagent.Dial(ctx, s.rec.Agent)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // nothing is on its way
	status, err := c.Status(ctx)
	if err == nil && status == "frozen" {
		_, err = c.Thaw(ctx)
	}
	return err
}

// resume lets a guest go on that QEMU has stopped for want of space: with QEMU's
// default, werror=enospc, that is before the guest hears of an error. If there
// is no space still, QEMU stops it again.
func (s *session) resume(ctx context.Context) {
	for pause := pollFirst; pause < time.Minute; pause *= 2 { // cancelling takes a moment
		var st struct {
			Status string `json:"status"`
		}
		if s.Run(ctx, "query-status", nil, &st) != nil || st.Status != "io-error" || s.Run(ctx, "cont", nil, nil) != nil {
			return
		}
		if sleep(ctx, pause) != nil {
			return
		}
	}
}
