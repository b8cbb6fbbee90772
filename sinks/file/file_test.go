// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package file

import (
	"context"
	"testing"
	"time"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/sinktest"
)

func openDir(t testing.TB) (sinks.Sink, string) {
	s, key, err := Driver().Open(t.Context(), sinks.Target{Scheme: "file", Rest: "//" + t.TempDir() + "/new/?mkdir=1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, key
}

func TestContract(t *testing.T) { sinktest.Run(t, sinktest.Options{Open: openDir}) }

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
