// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !unix

package qmp

import (
	"errors"
	"net"
	"os"
)

func writeFile(net.Conn, []byte, *os.File) error { return errors.ErrUnsupported }
