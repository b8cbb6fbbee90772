// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm/qmp"
)

// guard watches a snapshot while it is read. What it finds makes reads and the
// last check fail.
type guard struct {
	s       *session
	reserve int64
	sub     *qmp.Subscription
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu    sync.Mutex
	err   error // why the disks do not stand still any more
	given bool  // up, for want of space
}

// spaceEvery is how often the space for scratch files is looked at.
const spaceEvery = 250 * time.Millisecond

// errSpace says that scratch files, or an overlay, have no room.
var errSpace = errors.New("no space left for what the guest overwrites")

func (t *taking) newGuard() *guard {
	g := &guard{s: t.session, reserve: t.opt.ReserveBytes}
	g.sub = t.Subscribe(func(e qmp.Event) bool {
		return strings.HasPrefix(e.Name, "BLOCK_JOB_") || e.Name == "BLOCK_IO_ERROR"
	})
	return g
}

// start begins to watch. There is no caller whose context could end it: stop does.
func (g *guard) start() {
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	g.running.Go(func() { g.watchEvents(ctx) })
	if g.s.rec.Mode == Fleece {
		g.running.Go(func() { g.watchSpace(ctx) })
	}
}

// stop ends watching; it may be called twice.
func (g *guard) stop() {
	if g.cancel != nil {
		g.cancel()
	}
	g.running.Wait()
	g.sub.Close()
}

func (g *guard) failed() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// gaveUp reports if the snapshot was given up.
func (g *guard) gaveUp() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.given
}

// fail notes the first reason. What is read from now on is not used.
func (g *guard) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = fmt.Errorf("the snapshot is lost: %w", err)
	}
}

func (g *guard) watchEvents(ctx context.Context) {
	for {
		e, err := g.sub.Next(ctx, nil)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			g.fail(err)
			return
		}
		g.event(ctx, e)
	}
}

func (g *guard) event(ctx context.Context, e qmp.Event) {
	var data struct {
		Device  string `json:"device"`
		Error   string `json:"error"`
		Action  string `json:"action"`
		NoSpace bool   `json:"nospace"`
	}
	if json.Unmarshal(e.Data, &data) != nil {
		return
	}
	if e.Name == "BLOCK_IO_ERROR" {
		if data.NoSpace && data.Action == "stop" {
			g.fail(errSpace)
			g.giveUp(ctx)
			if g.s.rec.Mode == Fleece { // with an overlay there is space after the commit
				g.s.resume(ctx)
			}
		}
		return
	}
	if slices.ContainsFunc(g.s.rec.Disks, func(d *diskRecord) bool { return d.Job == data.Device }) && e.Name != "BLOCK_JOB_PENDING" {
		g.fail(fmt.Errorf("%s of %s: %s", e.Name, data.Device, data.Error))
	}
}

// giveUp ends the jobs of a fleecing snapshot at once: as long as they are there
// a write of the guest fails if what it overwrites cannot be saved.
func (g *guard) giveUp(ctx context.Context) {
	g.mu.Lock()
	told := g.given
	g.given = true
	g.mu.Unlock()
	if !told { // a stopped guest may stop again before the jobs are gone
		g.s.warn("the snapshot is given up, so that the guest can go on: " + errSpace.Error())
	}
	if g.s.rec.Mode == Fleece { // an overlay goes with the release
		for _, d := range g.s.rec.Disks {
			// Jobs that stay for a failure of this are ended by the release.
			_ = g.s.Run(ctx, "job-cancel", args{"id": d.Job}, nil)
		}
	}
}

// watchSpace gives up before there is no room.
func (g *guard) watchSpace(ctx context.Context) {
	for sleep(ctx, spaceEvery) == nil {
		for _, d := range g.s.rec.Disks {
			free, ok := disk.FreeBytes(filepath.Dir(d.Temp))
			if ok && free < g.reserve {
				g.fail(fmt.Errorf("%s: %d MiB are free, %d are kept free: %w; give another directory with --scratch", d.Temp, free>>20, g.reserve>>20, errSpace))
				g.giveUp(ctx)
				return
			}
		}
	}
}

// check fails if the disks do not stand still any more.
func (t *taking) check(ctx context.Context) error {
	if err := t.guard.failed(); err != nil {
		return err
	}
	for _, d := range t.rec.Disks {
		if t.rec.Mode == Overlay {
			top, err := t.top(ctx, d)
			if err != nil {
				return err
			}
			if top != d.TempNode {
				return fmt.Errorf("%s: somebody has taken the overlay away: the guest is on %s: %w", d.Key, top, disk.ErrMismatch)
			}
			if j, err := t.job(ctx, d.Job); err != nil || j != nil {
				return errors.Join(err, fmt.Errorf("%s: the overlay is being committed: %w", d.Key, disk.ErrMismatch))
			}
			continue
		}
		j, err := t.job(ctx, d.Job)
		switch {
		case err != nil:
			return err
		case j == nil:
			return fmt.Errorf("%s: the job that keeps the disk still is gone: %w", d.Key, disk.ErrMismatch)
		case j.Status != "running" && j.Status != "paused" || j.Error != "":
			return fmt.Errorf("%s: the job that keeps the disk still is %s: %w: %s", d.Key, j.Status, disk.ErrMismatch, j.Error)
		}
	}
	return t.guard.failed()
}

// guarded is a disk that fails when its snapshot is lost, and not only at the end.
type guarded struct {
	disk.Image
	g *guard
}

// ReadAt implements disk.Image.
func (im *guarded) ReadAt(p []byte, off int64) (int, error) {
	n, err := im.Image.ReadAt(p, off)
	if lost := im.g.failed(); lost != nil {
		return 0, lost
	}
	return n, err
}

// Prefetch implements disk.Prefetcher.
func (im *guarded) Prefetch(off, n int64) { disk.Prefetch(im.Image, off, n) }

// Runs implements disk.Image.
func (im *guarded) Runs(off, n int64) iter.Seq2[disk.Run, error] {
	return func(yield func(disk.Run, error) bool) {
		for r, err := range im.Image.Runs(off, n) {
			if lost := im.g.failed(); lost != nil {
				r, err = disk.Run{}, lost
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}
