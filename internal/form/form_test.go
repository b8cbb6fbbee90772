// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package form

import (
	"strings"
	"testing"
)

func TestForm(t *testing.T) {
	f := New(`^[a-z][a-z0-9]+$`, 32)
	for word, want := range map[string]bool{
		"": false, "a": false, "s3": true, "3s": false, "S3": false, "file\n": false, "\x00a": false,
		strings.Repeat("a", 32): true, strings.Repeat("a", 33): false,
	} {
		if f.MatchString(word) != want {
			t.Errorf("%q: %t", word, !want)
		}
	}
}
