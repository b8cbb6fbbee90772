// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"path/filepath"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/sinks/sinktest"
)

func TestDocument(t *testing.T) {
	sinktest.Documented(t, Driver(), filepath.Join(testenv.Root(t), "docs", "sinks.md"))
}
