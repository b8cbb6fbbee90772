// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build !unix

package cli

import "os"

var statusSignal os.Signal

var stopSignals = map[os.Signal]*SignalError{os.Interrupt: {Code: ExitInt, Name: "interrupt"}}

var pipeSignal os.Signal
