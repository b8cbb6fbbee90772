// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !linux

package scsi

import (
	"errors"
	"fmt"
)

// Open opens a device by its node. It is there for Linux only.
func Open(node string) (*Device, error) {
	return nil, fmt.Errorf("%s: SCSI commands: %w", node, errors.ErrUnsupported)
}
