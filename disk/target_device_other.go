// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !linux

package disk

import (
	"errors"
	"fmt"
	"os"
)

// openExclusive refuses: only Linux has a way to open a device that nobody
// else uses.
func openExclusive(path string) (*os.File, error) {
	return nil, fmt.Errorf("%s: block devices can be written on Linux only: %w", path, ErrUnsupported)
}

func zeroAlignment(*os.File) int64 { return int64(os.Getpagesize()) }

func deviceZeroOut(*os.File, int64, int64) error { return errors.ErrUnsupported }

// CheckUnclaimed finds nothing: only Linux tells.
func CheckUnclaimed(string) error { return nil }
