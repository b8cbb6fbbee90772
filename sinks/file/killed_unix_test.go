// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package file

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/sinks"
)

const victimVariable = "VMSTREAM_TEST_FILE_VICTIM" // target that this process stores in

// victimBytes is the length of an object that is stored.
const victimBytes = 24 << 20

func TestMain(m *testing.M) {
	if target := os.Getenv(victimVariable); target != "" {
		if err := victim(target); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func victimContent() []byte { return bytes.Repeat([]byte("victim "), victimBytes/7+1)[:victimBytes] }

func victim(target string) error {
	ctx := context.Background()
	s, key, err := Driver().Open(ctx, sinks.Target{Scheme: "file", Rest: target}, nil)
	if err != nil {
		return err
	}
	w, err := s.Create(ctx, key, sinks.CreateOptions{Keep: s.Capabilities().Resume, Resume: s.Capabilities().Resume, ID: "v"})
	if err != nil {
		return err
	}
	for b := victimContent(); len(b) > 0; b = b[min(len(b), 100_000):] {
		if _, err := w.Write(b[:min(len(b), 100_000)]); err != nil {
			return err
		}
	}
	_, err = w.Commit(ctx, sinks.End{SizeBytes: victimBytes})
	return err
}

// TestKilled kills runs at any time: an object is there whole or not at all, a later run
// goes on, and at the end nothing but the object is there.
func TestKilled(t *testing.T) {
	testenv.Long(t)
	for _, options := range []string{"", "?split=1M"} {
		dir := t.TempDir()
		s, key := openTarget(t, dir+"/o"+options)
		done := 0
		for round := 0; done < 2 && round < 200; round++ {
			c := exec.Command(os.Args[0])
			c.Env = append(os.Environ(), victimVariable+"=//"+dir+"/o"+options)
			c.Stderr = os.Stderr
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			// Later each time, so that one comes to its end on any machine.
			timer := time.AfterFunc(time.Duration(rand.Int64N(int64(round+1)*int64(5*time.Millisecond))), func() { _ = c.Process.Kill() })
			err := c.Wait()
			timer.Stop()
			got, readErr := get(t, s, key)
			switch {
			case readErr == nil && !bytes.Equal(got, victimContent()):
				t.Fatalf("round %d: %d bytes are there, not the object", round, len(got))
			case readErr != nil && !errors.Is(readErr, fs.ErrNotExist):
				t.Fatalf("round %d: %v", round, readErr)
			case readErr != nil && err == nil:
				t.Fatalf("round %d: it ended well, and nothing is there", round)
			case readErr == nil:
				done++
				if err := s.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
		}
		if done == 0 {
			t.Fatal("no run came to its end")
		}
		for o, err := range s.Orphans(t.Context(), "") {
			if err == nil {
				err = s.RemoveOrphan(t.Context(), o)
			}
			if err != nil {
				t.Error(err)
			}
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
			t.Errorf("%v are left, %v", names, err)
		}
	}
}
