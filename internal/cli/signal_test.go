// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package cli

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
)

func kill(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), s); err != nil {
		t.Fatal(err)
	}
}

// TestSignals sends two signals: the first cancels with its name and code, the
// second ends at once.
func TestSignals(t *testing.T) {
	ended := make(chan int, 1)
	ctx, stop := WithSignals(t.Context(), func(code int) { ended <- code })
	kill(t, syscall.SIGTERM)
	<-ctx.Done()
	var sig *SignalError
	if err := context.Cause(ctx); !errors.As(err, &sig) || Code(err) != ExitTerm {
		t.Errorf("cause %v", err)
	}
	select {
	case code := <-ended:
		t.Errorf("ended with %d after one signal", code)
	default:
	}
	kill(t, syscall.SIGINT)
	if code := <-ended; code != ExitInt {
		t.Errorf("ended with %d", code)
	}
	stop()
}

// TestIgnoredSignal has a SIGHUP that was ignored before: it stays so.
func TestIgnoredSignal(t *testing.T) {
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	ctx, stop := WithSignals(t.Context(), func(int) {})
	defer stop()
	kill(t, syscall.SIGHUP)
	kill(t, syscall.SIGTERM)
	<-ctx.Done()
	if code := Code(context.Cause(ctx)); code != ExitTerm {
		t.Errorf("code %d, want %d", code, ExitTerm)
	}
}

// TestBrokenPipe writes to a pipe without a reader: an error, no signal.
func TestBrokenPipe(t *testing.T) {
	inherited := signal.Ignored(syscall.SIGPIPE) // as of systemd's services
	_, stop := WithSignals(t.Context(), func(int) {})
	defer stop()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("x"); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("error %v, want EPIPE", err)
	}
	kill(t, syscall.SIGPIPE)
	out, err := exec.Command("/bin/sh", "-c", "kill -PIPE $$; echo ignored").Output()
	if !inherited && (err == nil || len(out) > 0) {
		t.Errorf("a command has SIGPIPE %s, %v", out, err)
	}
}
