// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

// scenario is an operation that is stopped at each of its steps.
type scenario struct {
	name   string
	levels int // that exist before
	run    func(d *testDisk) error
	// after is the content at the end; the content before is the other one
	// that a crash may leave.
	discards bool
	adds     bool
}

func scenarios() []scenario {
	commit := func(level int) func(d *testDisk) error {
		return func(d *testDisk) error {
			_, err := Commit(background(), d.named(), CommitOptions{Options: d.options(), Level: level})
			return err
		}
	}
	return []scenario{
		{name: "add", levels: 0, adds: true, run: func(d *testDisk) error {
			_, err := Add(background(), d.named(), AddOptions{Options: d.options()})
			return err
		}},
		{name: "commit the only one", levels: 1, run: commit(0)},
		{name: "commit the top", levels: 2, run: commit(0)},
		{name: "commit the lower", levels: 2, run: commit(1)},
		{name: "discard", levels: 2, discards: true, run: func(d *testDisk) error {
			_, err := Discard(background(), d.named(), DiscardOptions{Options: d.options()})
			return err
		}},
	}
}

// makeLevels puts levels with writes over a base. Some of its pieces lie across
// grains of 64 KiB and across what a grain table of a COWD file stands for.
func makeLevels(d *testDisk, n int) {
	sectors := len(d.model) / 512
	for i := range n {
		d.add()
		d.write(piece{3 + i, 2, byte(10 + i)}, piece{130 - i*20, 300, byte(40 + i)}, piece{900 + i, 40, 0})
		if i == n-1 { // what the level below has no table for
			d.write(piece{sectors/2 - 9, 100, 7}, piece{sectors - 3, 3, byte(90 + i)})
		}
	}
}

// TestStopEverywhere stops every operation at every write, sync, rename and
// removal, loses what was not synced, compares what is left with the model,
// lets the operation run again, and compares once more.
func TestStopEverywhere(t *testing.T) {
	testenv.Long(t)
	kinds := baseKinds()
	if os.Getenv("RAPID_CHECKS") == "" { // not make soak: the other two have the same code below them
		kinds = slices.DeleteFunc(kinds, func(k baseKind) bool { return k == baseFlat || k == baseSplit })
	}
	for _, kind := range kinds {
		for _, s := range scenarios() {
			t.Run(string(kind)+"/"+s.name, func(t *testing.T) {
				t.Parallel()
				content := noise(4501, 5)
				clear(content[100*512 : 4400*512]) // grains to be allocated
				d := newTestDisk(t, t.TempDir(), kind, content)
				makeLevels(d, s.levels)
				stopEverywhere(t, d, s)
			})
		}
	}
}

// TestStopEmptyBase is about a sparse base without any grain, which readers
// are suspicious of.
func TestStopEmptyBase(t *testing.T) {
	testenv.Long(t)
	d := newTestDisk(t, t.TempDir(), baseSparse, make([]byte, 4501*512))
	makeLevels(d, 1)
	stopEverywhere(t, d, scenarios()[1])
}

func stopEverywhere(t *testing.T, d *testDisk, s scenario) {
	rnd := rand.New(rand.NewPCG(1, uint64(s.levels)))
	random := func() bool { return rnd.IntN(2) == 0 }
	before, after := slices.Clone(d.model), slices.Clone(d.model)
	if s.discards {
		after = d.below[len(d.below)-1]
	}
	whole := replica(t, d, 0)
	if err := s.run(whole); err != nil {
		t.Fatalf("without a stop: %v", err)
	}
	whole.wantContent("without a stop", whole.top(), after)
	want := whole.files()
	points := whole.fs.(*crashFS).ops
	if points < 4 {
		t.Fatalf("only %d operations", points)
	}
	for stop := 1; stop <= points; stop++ {
		stopped := replica(t, d, stop)
		if err := s.run(stopped); !errors.Is(err, errStopped) {
			t.Fatalf("stopped at %d of %d: %v", stop, points, err)
		}
		for _, how := range []lose{loseAll, loseNothing, loseRandom, loseData + lose(stop%2)} {
			left := &testDisk{t: t, dir: t.TempDir(), kind: d.kind}
			stopped.fs.(*crashFS).crash(t, left.dir, how, random)
			what := fmt.Sprintf("stopped at %d of %d, loss %d", stop, points, how)
			checkLeft(t, left, what, before, after)
			finishLeft(t, left, s, what, after, want)
		}
	}
	t.Logf("%d points", points)
}

// replica returns a copy of a disk on a file system that stops.
func replica(t *testing.T, d *testDisk, stopAt int) *testDisk {
	t.Helper()
	c := &testDisk{t: t, dir: t.TempDir(), kind: d.kind, model: d.model, below: d.below}
	copyDir(t, d.dir, c.dir)
	c.fs = newCrashFS(t, c.dir, stopAt)
	return c
}

// checkLeft looks at the disk as somebody would who has no idea of the crash.
func checkLeft(t *testing.T, left *testDisk, what string, before, after []byte) {
	t.Helper()
	got, err := left.content(left.top())
	if err != nil {
		t.Fatalf("%s: %v; files %v", what, err, left.files())
	}
	if difference(got, before) >= 0 && difference(got, after) >= 0 {
		t.Fatalf("%s: %s differs at sector %d; files %v", what, left.top(), difference(got, before)/512, left.files())
	}
}

// finishLeft runs the operation again. It may find that it had ended.
func finishLeft(t *testing.T, left *testDisk, s scenario, what string, after []byte, want []string) {
	t.Helper()
	left.fs = newCrashFS(t, left.dir, 0)
	if slices.Equal(left.files(), want) {
		left.wantContent(what+", had ended", left.top(), after)
		return
	}
	err := s.run(left)
	if errors.Is(err, errStopped) || err != nil && !errors.Is(err, disk.ErrUnsupported) {
		t.Fatalf("%s: again: %v; files %v", what, err, left.files())
	}
	if err != nil {
		t.Fatalf("%s: again: %v; files %v, expected %v", what, err, left.files(), want)
	}
	if got := left.files(); !slices.Equal(got, want) {
		t.Fatalf("%s: again: files %v, expected %v", what, got, want)
	}
	left.wantContent(what+", again", left.top(), after)
}
