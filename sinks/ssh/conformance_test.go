// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package ssh

import (
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/sinktest"
)

func TestConformance(t *testing.T) {
	testenv.Long(t)
	sinktest.Run(t, sinktest.Options{Open: func(testing.TB) (sinks.Sink, string) {
		target, _ := serve(t, "dash")
		return openSink(t, target), "c/"
	}})
}
