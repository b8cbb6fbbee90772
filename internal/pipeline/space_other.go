// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !linux

package pipeline

import "errors"

func freeBytes(string) (int64, bool) { return 0, false }

// exchange is not known how to do here.
func exchange(string, string) error { return errors.ErrUnsupported }
