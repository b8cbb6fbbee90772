// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream"
	"github.com/vmstream/vmstream/stream/codec"
)

// outputError returns what stream.Write returns when its output fails.
func outputError(t *testing.T) error {
	t.Helper()
	_, err := stream.Write(t.Context(), failing{}, nil, nil, stream.Options{ID: "x", Created: time.Unix(0, 0), Tool: "t", Name: "n", Consistency: stream.Crash, Codec: codec.Spec{Name: codec.None}})
	if !errors.Is(err, syscall.EPIPE) {
		t.Fatalf("error %v, want EPIPE", err)
	}
	return err
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestCode(t *testing.T) {
	damage := &disk.FormatError{Format: "stream", Offset: -1, Err: disk.ErrCorrupt}
	out := outputError(t)
	target := fmt.Errorf("%w: %w", stream.ErrTarget, fs.ErrExist)
	for _, c := range []struct {
		name string
		err  error
		want int
	}{
		{"nothing", nil, ExitDone},
		{"anything", errors.New("x"), ExitFailed},
		{"usage", Usage(errors.New("x")), ExitUsage},
		{"wrapped usage", fmt.Errorf("y: %w", Usage(errors.New("x"))), ExitUsage},
		{"warnings", ErrWarnings, ExitWarnings},
		{"no source", Source(nil), ExitDone},
		{"source", Source(fs.ErrNotExist), ExitSource},
		{"source that is damaged", Source(damage), ExitSource},
		{"usage stays usage", Source(Usage(errors.New("x"))), ExitUsage},
		{"output", out, ExitSink},
		{"output while the source is read", Source(out), ExitSink},
		{"no stream", Stream(nil), ExitDone},
		{"damaged stream", Stream(damage), ExitDamage},
		{"short stream", Stream(disk.ErrTruncated), ExitDamage},
		{"unknown stream", Stream(disk.ErrUnsupported), ExitDamage},
		{"mixed stream", Stream(disk.ErrMismatch), ExitDamage},
		{"target", Stream(target), ExitFailed},
		{"damaged target", Stream(fmt.Errorf("%w: %w", stream.ErrTarget, disk.ErrMismatch)), ExitFailed},
		{"trouble with reading the stream", Stream(syscall.EIO), ExitFailed},
		{"cancelled", Stream(context.Canceled), ExitFailed},
		{"SIGTERM", &SignalError{Code: ExitTerm, Name: "SIGTERM"}, 143},
		{"signal in a source error", Source(&SignalError{Code: ExitInt, Name: "SIGINT"}), 130},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Code(c.err); got != c.want {
				t.Errorf("code %d, want %d", got, c.want)
			}
		})
	}
}

// TestReservedHint has hints where a device gives errors, and nowhere else.
func TestReservedHint(t *testing.T) {
	for _, c := range []struct {
		path string
		err  error
		want bool
	}{{"/dev/sdb", syscall.EIO, true}, {"/dev/sdb", syscall.ENOENT, false}, {"disk.raw", syscall.EIO, false}} {
		e, ok := errors.AsType[*Error](Source(fmt.Errorf("copy: %w", &fs.PathError{Op: "read", Path: c.path, Err: c.err})))
		if !ok || strings.Contains(e.Hint, "scsi info "+c.path) != c.want || (e.Hint != "") != c.want {
			t.Errorf("%s, %v: %+v", c.path, c.err, e)
		}
	}
}

// TestExitCodes keeps the numbers: scripts have them.
func TestExitCodes(t *testing.T) {
	got := []int{ExitDone, ExitFailed, ExitUsage, ExitWarnings, ExitDamage, ExitSource, ExitSink, ExitHangup, ExitInt, ExitTerm}
	want := []int{0, 1, 2, 3, 4, 5, 6, 129, 130, 143}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("code %d, want %d", got[i], want[i])
		}
	}
}

func TestErrorKeepsItsCause(t *testing.T) {
	err := Source(fmt.Errorf("x: %w", fs.ErrNotExist))
	if !errors.Is(err, fs.ErrNotExist) || err.Error() != "x: file does not exist" {
		t.Errorf("%v", err)
	}
	var b bytes.Buffer
	c := NewConsole(&b)
	c.Fail(err, ExitSource, "look there")
	if b.String() != "vmstream: x: file does not exist\nhint: look there\n" {
		t.Errorf("%q", b.String())
	}
}
