// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package file

import (
	"context"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/sinktest"
)

func openDir(t testing.TB) (sinks.Sink, string) { return openTarget(t, t.TempDir()+"/new/?mkdir=1") }

func openTarget(t testing.TB, path string) (sinks.Sink, string) {
	t.Helper()
	s, key, err := Driver().Open(t.Context(), sinks.Target{Scheme: "file", Rest: "//" + path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, key
}

func TestContract(t *testing.T) { sinktest.Run(t, sinktest.Options{Open: openDir}) }

func TestContractSplit(t *testing.T) {
	sinktest.Run(t, sinktest.Options{Open: func(t testing.TB) (sinks.Sink, string) {
		return openTarget(t, t.TempDir()+"/new/?mkdir=1&split=1M")
	}})
}

// TestContractWithoutLinks is about file systems such as those of USB disks.
func TestContractWithoutLinks(t *testing.T) {
	link = func(_ *os.Root, from, to string) error {
		return &os.LinkError{Op: "link", Old: from, New: to, Err: syscall.EPERM}
	}
	defer func() { link = (*os.Root).Link }()
	if runtime.GOOS != "linux" {
		t.Skip("renaming without replacing is Linux's")
	}
	sinktest.Run(t, sinktest.Options{Open: openDir})
}

// wrapped writes through a spool smaller than the pieces, a tee and a rate.
type wrapped struct{ sinks.Sink }

func (s wrapped) Create(ctx context.Context, key string, o sinks.CreateOptions) (sinks.Writer, error) {
	w, err := s.Sink.Create(ctx, key, o)
	if err != nil {
		return nil, err
	}
	w = sinks.LimitRate(ctx, sinks.Tee(ctx, sinks.Branch{Name: "a", Writer: w}), sinks.NewRate(1<<30))
	return sinks.Spool(ctx, w, sinks.SpoolOptions{LimitBytes: 300_001})
}

func TestContractWrapped(t *testing.T) {
	sinktest.Run(t, sinktest.Options{Open: func(t testing.TB) (sinks.Sink, string) {
		s, key := openDir(t)
		return sinks.Retry(wrapped{s}, sinks.Backoff{First: time.Millisecond}, nil), key
	}})
}

func TestKeysStayInside(t *testing.T) {
	s, _ := openDir(t)
	for _, key := range []string{"", ".", "..", "../x", "a/../../x", "/x", "a//b", "x\x00"} {
		if _, err := s.Create(t.Context(), key, sinks.CreateOptions{}); err == nil {
			t.Errorf("key %q is taken", key)
		}
	}
}
