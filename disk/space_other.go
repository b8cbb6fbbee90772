// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !linux

package disk

// FreeBytes is not known here.
func FreeBytes(string) (int64, bool) { return 0, false }
