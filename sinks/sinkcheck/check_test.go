// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package sinkcheck

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/vmstream/vmstream/sinks"
)

// outcomes runs all checks and returns the names of those that fail and of those that
// are skipped.
func outcomes(ctx context.Context, s sinks.Sink) (failed, skipped []string, err error) {
	err = Verify(ctx, s, "a/b-", func(c Check) {
		switch {
		case c.Err != nil:
			failed = append(failed, c.Name)
		case c.Skipped != "":
			skipped = append(skipped, c.Name)
		}
	})
	return failed, skipped, err
}

// TestRight has checks pass on a sink that does everything right, and on those that
// claim less.
func TestRight(t *testing.T) {
	failed, skipped, err := outcomes(t.Context(), newReference("", everything))
	if err != nil || len(failed)+len(skipped) > 0 {
		t.Errorf("%v failed, %v skipped: %v", failed, skipped, err)
	}
	for name, take := range map[string]func(*sinks.Capabilities){
		"read":    func(c *sinks.Capabilities) { c.Read, c.Range = false, false },
		"range":   func(c *sinks.Capabilities) { c.Range = false },
		"stat":    func(c *sinks.Capabilities) { c.Stat = false },
		"list":    func(c *sinks.Capabilities) { c.List = false },
		"delete":  func(c *sinks.Capabilities) { c.Delete = false },
		"resume":  func(c *sinks.Capabilities) { c.Resume = false },
		"orphans": func(c *sinks.Capabilities) { c.Orphans = false },
		"all":     func(c *sinks.Capabilities) { *c = sinks.Capabilities{} },
	} {
		can := everything
		take(&can)
		s := newReference("", can)
		failed, skipped, err := outcomes(t.Context(), s)
		if err != nil || len(skipped) == 0 {
			t.Errorf("without %s: %v failed, %v skipped: %v", name, failed, skipped, err)
		}
		if can.Delete && len(s.objects) > 0 || can.Orphans && len(s.orphaned) > 0 {
			t.Errorf("without %s: %d objects and %d orphans are left", name, len(s.objects), len(s.orphaned))
		}
	}
}

// broken are faults and a check that has to find each.
var broken = map[fault]string{
	"shows objects early":                   "nothing is there before Commit",
	"loses the last byte":                   "an object is whole behind Commit",
	"changes large objects":                 "an object is whole behind Commit",
	"stores nothing empty":                  "an object is whole behind Commit",
	"writes short":                          "an object is whole behind Commit",
	"tells a wrong length":                  "Commit tells of the object",
	"commits another length":                "Commit refuses another length, and stores nothing",
	"leaves what is aborted":                "Abort leaves nothing",
	"leaves orphans":                        "Abort leaves nothing",
	"aborts once":                           "Abort leaves nothing",
	"aborts what is committed":              "Abort behind Commit does nothing",
	"commits twice":                         "a writer ends once",
	"writes behind the end":                 "a writer ends once",
	"does not heed the context of a writer": "a context that ends stops a writer",
	"commits what could not be written":     "a context that ends stops a writer",
	"replaces unasked":                      "nothing is replaced unasked",
	"removes what is to be replaced":        "an object is replaced at Commit, and not before",
	"never changes versions":                "an object is replaced at Commit, and not before",
	"removes what is replaced at abort":     "Abort keeps what was to be replaced",
	"lets both writers win":                 "of two writers one wins",
	"tells no reason":                       "of two writers one wins",
	"gives other errors":                    "what is not there gives ErrNotExist",
	"opens another":                         "Open tells of the object",
	"ends early":                            "a reader ends once, and can be closed before",
	"fails behind the end":                  "a reader ends once, and can be closed before",
	"cannot be closed early":                "a reader ends once, and can be closed before",
	"ranges are off by one":                 "ranges are those of the object",
	"takes negative offsets":                "ranges are those of the object",
	"has no end":                            "ranges are those of the object",
	"shares a position":                     "ranges are read at the same time",
	"does not heed contexts":                "a context that has ended is heeded",
	"deletes nothing":                       "Delete removes",
	"deletes too much":                      "Delete removes",
	"lists in any order":                    "List has what is there, in order",
	"lists a part":                          "List has what is there, in order",
	"lists what was not asked for":          "List has what is there, in order",
	"lists lengths of others":               "List has what is there, in order",
	"mangles keys":                          "keys are kept as they are",
	"refuses strange keys":                  "keys are kept as they are",
	"adds to what was kept":                 "what is kept can be gone on with",
	"resumes without comparing":             "going on with other bytes stores those",
	"resumes only what is there":            "without something to go on with, resuming begins",
	"keeps nothing":                         "what is kept is an orphan, and can be removed",
	"hides orphans":                         "what is kept is an orphan, and can be removed",
	"removes no orphans":                    "what is kept is an orphan, and can be removed",
}

// TestBroken has every fault found by the check that is there for it.
func TestBroken(t *testing.T) {
	for f, name := range broken {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			failed, _, err := outcomes(t.Context(), newReference(f, everything))
			if !slices.Contains(failed, name) {
				t.Errorf("%q does not fail, but %q: %v", name, failed, err)
			}
		})
	}
}

// TestBrokenAlone has the replacement of an object watched also where nothing is read
// while there is a writer.
func TestBrokenAlone(t *testing.T) {
	can := everything
	can.Concurrent = false
	failed, _, err := outcomes(t.Context(), newReference("removes what is to be replaced", can))
	if !slices.Contains(failed, "an object is replaced at Commit, and not before") {
		t.Errorf("%q: %v", failed, err)
	}
}

// TestBrokenClaims is the same for faults of a sink that claims little.
func TestBrokenClaims(t *testing.T) {
	failed, _, err := outcomes(t.Context(), newReference("does what it does not claim", sinks.Capabilities{Read: true, Delete: true, Stat: true}))
	if !slices.Contains(failed, "what is not claimed gives ErrUnsupported") {
		t.Errorf("%q: %v", failed, err)
	}
}

// TestEveryCheckIsTested has each check fail for some fault.
func TestEveryCheckIsTested(t *testing.T) {
	tested := map[string]bool{"what is not claimed gives ErrUnsupported": true}
	for _, name := range broken {
		tested[name] = true
	}
	for _, name := range Names() {
		if !tested[name] {
			t.Errorf("no fault is for %q", name)
		}
	}
}

// TestStops has the checks end with the context.
func TestStops(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	n := 0
	err := Verify(ctx, newReference("", everything), "", func(Check) {
		if n++; n == 3 {
			cancel()
		}
	})
	if n != 3 || !errors.Is(err, context.Canceled) {
		t.Errorf("%d checks, %v", n, err)
	}
}
