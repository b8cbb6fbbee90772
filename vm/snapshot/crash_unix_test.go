// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package snapshot

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
)

// The environment of a process that is going to be killed.
const (
	envDir    = "VMSTREAM_TEST_DIR"
	envKillAt = "VMSTREAM_TEST_KILL_AT"
)

// crashed is a run in a process of its own.
type crashed struct {
	ESX2  bool
	VMX   string
	Model [2][]byte
}

func saveCrashed(dir string, c *crashed) error {
	f, err := os.Create(filepath.Join(dir, "model"))
	if err != nil {
		return err
	}
	return errors.Join(gob.NewEncoder(f).Encode(c), f.Close())
}

func loadCrashed(dir string) (*crashed, error) {
	f, err := os.Open(filepath.Join(dir, "model"))
	if err != nil {
		return nil, err
	}
	var c crashed
	return &c, errors.Join(gob.NewDecoder(f).Decode(&c), f.Close())
}

// killed runs the named test in a process that is killed at the nth record that
// it saves. It returns false if it was not killed.
func killed(t *testing.T, name, dir string, n int) bool {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run", "^"+name+"$")
	c.Env = append(os.Environ(), envDir+"="+dir, envKillAt+"="+strconv.Itoa(n), "TMPDIR="+dir) // it removes nothing
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return false
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
		return true
	}
	t.Fatalf("the run to be killed at %d: %v\n%s", n, err, out)
	return false
}

// killer returns a journal that kills this process at its nth record.
func killer(t *testing.T, dir string) *Journal {
	t.Helper()
	left, err := strconv.Atoi(os.Getenv(envKillAt))
	if err != nil {
		t.Fatal(err)
	}
	j, err := OpenJournal(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	j.saved = func(string) {
		if left--; left < 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	return j
}

// TestRedoKilled kills a run at every record; its snapshot is reaped.
func TestRedoKilled(t *testing.T) { testRedoKilled(t, "TestRedoKilled", Redo{}) }

// TestRollingKilled is the same with a log that stays.
func TestRollingKilled(t *testing.T) { testRedoKilled(t, "TestRollingKilled", Redo{Rolling: true}) }

func testRedoKilled(t *testing.T, name string, p Redo) {
	if dir := os.Getenv(envDir); dir != "" {
		redoVictim(t, dir, p)
		return
	}
	testenv.Long(t)
	levels := 0
	if p.Rolling {
		levels = 1
	}
	eachNaming(t, func(t *testing.T, esx2 bool) {
		for n := 0; ; n++ {
			g, dir := newGuest(t, esx2), t.TempDir()
			if p.Rolling {
				s, err := Take(t.Context(), p, testJournal(t), g.request())
				g.must(err)
				g.must(s.Release(t.Context(), true))
				g.write()
			}
			g.must(saveCrashed(dir, &crashed{esx2, g.vmx, g.model}))
			if !killed(t, name, dir, n) {
				if n < 6 {
					t.Fatalf("only %d records were saved", n)
				}
				return
			}
			c, err := loadCrashed(dir)
			g.must(err)
			g.model = c.Model
			j, err := OpenJournal(filepath.Join(dir, "state"))
			g.must(err)
			for _, l := range wantEntries(t, j, 1) {
				if l.Alive {
					t.Fatalf("%+v is alive", l)
				}
				g.must(Reap(t.Context(), j, l.ID, []Provider{Redo{}}, Voice{Warn: func(s string) { t.Error(s) }}))
			}
			g.check(fmt.Sprintf("killed at %d and reaped", n), levels)
			wantEntries(t, j, 0)
		}
	})
}

// redoVictim makes a snapshot, lets a guest write, and releases it.
func redoVictim(t *testing.T, dir string, p Redo) {
	c, err := loadCrashed(dir)
	if err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, c.ESX2) // for its methods
	g.vmx, g.model = c.VMX, c.Model
	s, err := Take(context.Background(), p, killer(t, dir), g.request())
	g.must(err)
	g.write()
	c.Model = g.model
	g.must(saveCrashed(dir, c))
	g.must(s.Release(context.Background(), true))
}
