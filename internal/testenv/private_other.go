// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !unix

package testenv

import "testing"

// PrivateDir returns a new directory.
func PrivateDir(tb testing.TB) string { return tb.TempDir() }
