// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !linux

package disk

import (
	"errors"
	"io"
	"os"
	"syscall"
)

const openNonblock = syscall.O_NONBLOCK

var errNoData = errors.New("no data behind this offset")

func seekData(*os.File, int64) (int64, error) { return 0, errors.ErrUnsupported }

func seekHole(*os.File, int64) (int64, error) { return 0, errors.ErrUnsupported }

func forget(*os.File, int64, int64) {}

func deviceSize(f *os.File) (int64, error) { return f.Seek(0, io.SeekEnd) }
