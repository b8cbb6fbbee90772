// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !linux

// Package vmfsmount mounts a VMFS volume, on Linux.
package vmfsmount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/vmstream/vmstream/vmfs"
)

// Options say how a volume is mounted.
type Options struct {
	AllowOther bool
	Log        *slog.Logger
	Ready      func()
}

// Mount fails.
func Mount(context.Context, *vmfs.FS, string, Options) error {
	return fmt.Errorf("volumes are mounted on Linux only: %w", errors.ErrUnsupported)
}
