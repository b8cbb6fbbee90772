// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !linux

package file

import (
	"errors"
	"os"
)

func renameNew(_ *os.Root, from, to string) error {
	return &os.LinkError{Op: "rename", Old: from, New: to, Err: errors.ErrUnsupported}
}
