// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !linux

package tape

import (
	"fmt"

	"github.com/vmstream/vmstream/sinks"
)

func openDevice(path string, _ bool) (drive, error) {
	return nil, fmt.Errorf("%s: tape drives are used on Linux; a directory is a virtual one: %w", path, sinks.ErrUnsupported)
}
