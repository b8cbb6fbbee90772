// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/vmstream/vmstream/sinks"
)

// defaultBackoff rides out some two minutes of a server that is restarted.
var defaultBackoff = sinks.Backoff{Tries: 9, First: 300 * time.Millisecond, Max: 30 * time.Second}

// try calls f until it succeeds, fails for good, or has had its tries. f gets the
// number of the try, from 1. Credentials that have expired are fetched again.
func (s *sink) try(ctx context.Context, op, key string, f func(try int) error) error {
	for try := 1; ; try++ {
		err := f(try)
		if err == nil {
			return nil
		}
		fault := s.fault(ctx, op, key, err)
		switch {
		case !errors.Is(fault, sinks.ErrTransient):
			return fault
		case try >= s.backoff.Tries:
			return sinks.Exhausted(try, fault)
		}
		if fault.is(expired...) {
			s.creds.Expire()
		}
		pause := min(s.backoff.First<<(try-1), s.backoff.Max)
		pause -= rand.N(pause/2 + 1)
		s.log.Warn("will try again", "request", op, "key", key, "pause", pause, "error", fault)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return s.fault(ctx, op, key, ctx.Err())
		}
	}
}
