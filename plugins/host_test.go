// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"log/slog"
	"testing"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/sinktest"
)

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// TestConformance runs the checks that all sinks pass on one in another process.
func TestConformance(t *testing.T) {
	sinktest.Run(t, sinktest.Options{Open: func(t testing.TB) (sinks.Sink, string) {
		return openSink(t, testHost(t), tempTarget(t))
	}})
}
