// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package exec_test

import (
	"testing"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/sinktest"
)

// TestConformance has the checks that a command can pass: it can store and give back.
func TestConformance(t *testing.T) {
	dir := t.TempDir()
	sinktest.Run(t, sinktest.Options{Open: func(testing.TB) (sinks.Sink, string) {
		s, _ := open(t, `cat >"`+dir+`/$VMSTREAM_KEY"?restore=exec+cat+"`+dir+`/$VMSTREAM_KEY"`)
		return s, ""
	}})
}
