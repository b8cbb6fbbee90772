// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"os"
	"os/signal"
)

// WithSignals returns a context that SIGINT, SIGTERM and SIGHUP cancel with a
// SignalError as cause, so that what was begun is cleaned up. A second signal
// ends the process at once. A signal that the parent has set to be ignored
// stays ignored, as nohup wants it.
//
// SIGPIPE means nothing from here on: a write to a closed pipe is an error like
// any other. To commands that are run it means what it always does.
func WithSignals(parent context.Context, exit func(int)) (context.Context, func()) {
	if pipeSignal != nil && !signal.Ignored(pipeSignal) {
		// Not signal.Ignore: hooks and tools of the host would inherit that.
		signal.Notify(make(chan os.Signal, 1), pipeSignal) // nobody takes it
	}
	ctx, cancel := context.WithCancelCause(parent)
	got := make(chan os.Signal, 2)
	for s := range stopSignals {
		if !signal.Ignored(s) {
			signal.Notify(got, s)
		}
	}
	stopped := make(chan struct{})
	go func() {
		select {
		case s := <-got:
			cancel(stopSignals[s])
		case <-stopped:
			return
		}
		select {
		case s := <-got:
			exit(stopSignals[s].Code)
		case <-stopped:
		}
	}()
	return ctx, func() {
		signal.Stop(got)
		close(stopped)
		cancel(nil)
	}
}
