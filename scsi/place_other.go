// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !linux

package scsi

import (
	"errors"
	"io/fs"
)

func (s Sysfs) deviceDir(fs.FileInfo) (string, error) { return "", errors.ErrUnsupported }
