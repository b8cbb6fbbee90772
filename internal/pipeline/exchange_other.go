// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !linux

package pipeline

import "errors"

// exchange is not known how to do here.
func exchange(string, string) error { return errors.ErrUnsupported }
