// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package guestagent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmstream/vmstream/disk"
)

// MaxFreeze bounds how long file systems stay frozen: programs in the guest
// wait, and a database or a cluster takes a longer pause for a failure.
const MaxFreeze = 10 * time.Second

// thawTimeout bounds the attempts to thaw.
const thawTimeout = 30 * time.Second

// Freeze is a guest whose file systems are frozen until Thaw is called or the
// time is up.
type Freeze struct {
	// FileSystems is how many the agent says it has frozen.
	FileSystems int
	Since       time.Time

	c     *Client
	timer *time.Timer
	// Under c.mu: over says that nothing is left to thaw, late that the timer
	// did it, with err.
	over, late bool
	err        error
}

// Freeze freezes the file systems at mountpoints, or all if there are none, for
// at most limit (and MaxFreeze). The timer that thaws them is armed before the
// agent hears of it, so that nothing that happens to the caller, short of its
// death, leaves the guest frozen; a freeze that fails, or whose outcome is not
// known, is thawed before Freeze returns. A guest that is frozen already is
// left as it is: [ErrFrozen].
func (c *Client) Freeze(ctx context.Context, limit time.Duration, mountpoints ...string) (*Freeze, error) {
	limit = min(limit, MaxFreeze)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch s, err := c.status(ctx); {
	case err != nil:
		return nil, err
	case s == "frozen":
		return nil, ErrFrozen
	}
	f := &Freeze{Since: time.Now(), c: c}
	f.timer = time.AfterFunc(limit, func() { f.expire(context.WithoutCancel(ctx)) })
	name, args := "guest-fsfreeze-freeze", any(nil)
	if len(mountpoints) > 0 {
		name, args = "guest-fsfreeze-freeze-list", map[string][]string{"mountpoints": mountpoints}
	}
	err := c.call(ctx, limit, name, args, &f.FileSystems)
	switch {
	case err == nil && f.FileSystems > 0:
		return f, nil
	case frozenError(err): // somebody came between the status and the freeze
		f.stop()
		return nil, ErrFrozen
	case err == nil:
		err = fmt.Errorf("guest agent: %s: no file system was frozen: %w", name, disk.ErrUnsupported)
	}
	f.stop()
	_, terr := c.thaw(context.WithoutCancel(ctx))
	return nil, errors.Join(err, terr)
}

// stop makes the timer do nothing. The caller holds c.mu.
func (f *Freeze) stop() {
	f.over = true
	f.timer.Stop()
}

// expire is what the timer does. The caller's context may be why nobody else
// thawed, so ctx does not end with it.
func (f *Freeze) expire(ctx context.Context) {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	if !f.over {
		f.over, f.late = true, true
		_, f.err = f.c.thaw(ctx)
	}
}

// Thaw thaws what was frozen and returns how long it was. It is an error if the
// timer was first: what happened since then did not happen to a frozen guest.
// The end of ctx does not keep it from thawing. It is to be called once.
func (f *Freeze) Thaw(ctx context.Context) (time.Duration, error) {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	if f.late {
		return time.Since(f.Since), errors.Join(fmt.Errorf("guest agent: the time for the freeze was up: %w", context.DeadlineExceeded), f.err)
	}
	f.stop()
	n, err := f.c.thaw(context.WithoutCancel(ctx))
	if err == nil && n == 0 {
		err = fmt.Errorf("guest agent: somebody else thawed the file systems meanwhile: %w", disk.ErrMismatch)
	}
	return time.Since(f.Since), err
}

// Thaw thaws all file systems, whoever froze them, and returns how many the
// agent says it has thawed: 0 if none was frozen. It tries for 30 seconds, and
// connects again if the connection is lost.
func (c *Client) Thaw(ctx context.Context) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.thaw(ctx)
}

func (c *Client) thaw(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, thawTimeout)
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause *= 2 {
		var n int
		err := c.call(ctx, callTimeout, "guest-fsfreeze-thaw", nil, &n)
		if err == nil {
			return n, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("guest agent: the guest may still be frozen; thaw it, for example with guest-fsfreeze-thaw: %w", err)
		case <-time.After(pause):
		}
		if c.path != "" {
			_ = c.conn.Close() // of no use any more
			if cerr := c.connect(ctx); cerr == nil {
				c.dirty = true // what the old connection left is to be skipped
			}
		}
	}
}
