// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build windows || plan9

package command

import (
	"errors"
	"io"
)

// openSyslog fails: there is no system log here.
func openSyslog(string) (io.WriteCloser, error) { return nil, errors.ErrUnsupported }
