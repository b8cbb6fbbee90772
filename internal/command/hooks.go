// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/vm/process"
)

// hooks are commands of the operator that run around a backup.
type hooks struct {
	pre, preFreeze, postThaw, post, onFailure string
	timeout                                   time.Duration

	// What the hooks are told, as far as it is known.
	id, name, path, provider, consistency string
}

const (
	hookTimeout   = 10 * time.Minute
	freezeTimeout = time.Minute // a guest waits; a shorter hookTimeout holds here too
)

func (h *hooks) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&h.pre, "pre", "", "run this shell command before anything is done")
	f.StringVar(&h.preFreeze, "pre-freeze", "", "run this right before the snapshot is made")
	f.StringVar(&h.postThaw, "post-thaw", "", "run this right behind it")
	f.StringVar(&h.post, "post", "", "run this at the end, however that comes")
	f.DurationVar(&h.timeout, "hook-timeout", hookTimeout, "kill a hook that takes longer; --pre-freeze and --post-thaw have 1m at most")
}

func (h *hooks) validate() error {
	if h.timeout <= 0 {
		return cli.Usage(errors.New("--hook-timeout must be more than 0"))
	}
	return nil
}

// freezes reports if there is anything to run around the point in time.
func (h *hooks) freezes() bool { return h.preFreeze != "" || h.postThaw != "" }

// run runs a hook. Its output goes to stderr, never to where the stream goes.
func (h *hooks) run(ctx context.Context, a *app, kind, script string, status int) error {
	if script == "" {
		return nil
	}
	c := &process.Command{
		Argv: []string{"/bin/sh", "-c", script}, Timeout: h.timeout, Env: h.environment(kind, status),
		// A hook that makes a backup itself must not run hooks again.
		Unset: []string{"VMSTREAM_PRE", "VMSTREAM_PRE_FREEZE", "VMSTREAM_POST_THAW", "VMSTREAM_POST", "VMSTREAM_ON_FAILURE"},
		Line: func(s string) {
			a.console.Say("hook", cli.Event{"hook": kind, "message": s}, "%s: %s", kind, s)
		},
	}
	if kind == "pre-freeze" || kind == "post-thaw" {
		c.Timeout = min(h.timeout, freezeTimeout)
	}
	a.console.Detail("run --%s: %s", kind, script)
	if _, err := c.Run(ctx); err != nil {
		return fmt.Errorf("--%s: %w", kind, err)
	}
	return nil
}

func (h *hooks) environment(kind string, status int) []string {
	env := []string{
		"VMSTREAM_HOOK=" + kind, "VMSTREAM_HOOK_ID=" + h.id, "VMSTREAM_HOOK_VM=" + h.name, "VMSTREAM_HOOK_PATH=" + h.path,
		"VMSTREAM_HOOK_PROVIDER=" + h.provider, "VMSTREAM_HOOK_CONSISTENCY=" + h.consistency,
	}
	if kind == "post" || kind == "on-failure" {
		env = append(env, "VMSTREAM_HOOK_STATUS="+strconv.Itoa(status))
	}
	return env
}

// before and after run around the point in time. A thaw that fails does not
// undo a snapshot that was made.
func (h *hooks) before(a *app) func(context.Context) error {
	return func(ctx context.Context) error { return h.run(ctx, a, "pre-freeze", h.preFreeze, 0) }
}

func (h *hooks) after(a *app) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := h.run(ctx, a, "post-thaw", h.postThaw, 0); err != nil {
			a.console.Warn(err.Error())
		}
		return nil
	}
}
