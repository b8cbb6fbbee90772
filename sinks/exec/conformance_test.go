// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package exec_test

import (
	"net/url"
	"testing"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/sinktest"
)

func TestConformance(t *testing.T) {
	sinktest.Run(t, sinktest.Options{Open: func(testing.TB) (sinks.Sink, string) {
		dir := t.TempDir()
		s, _ := open(t, `f="`+dir+`/$VMSTREAM_KEY"; mkdir -p "${f%/*}"; cat >"$f.new" && mv "$f.new" "$f"?restore=`+
			url.QueryEscape(`cat "`+dir+`/$VMSTREAM_KEY"`))
		return s, "c/"
	}})
}
