// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package sinktest runs the checks of package sinkcheck as tests.
package sinktest

import (
	"testing"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/sinkcheck"
)

// Options say what to check.
type Options struct {
	// Open returns a sink and the prefix of keys that the checks may use there.
	Open func(testing.TB) (sinks.Sink, string)
}

// Run runs all checks; each that fails fails the test.
func Run(t *testing.T, o Options) {
	s, prefix := o.Open(t)
	ran := 0
	_ = sinkcheck.Verify(t.Context(), s, prefix, func(c sinkcheck.Check) {
		switch {
		case c.Err != nil:
			t.Errorf("%s: %v", c.Name, c.Err)
		case c.Skipped != "":
			t.Logf("%s: skipped, the sink does not claim %s", c.Name, c.Skipped)
		default:
			ran++
		}
	})
	if ran == 0 && !t.Failed() {
		t.Error("everything was skipped")
	}
}
