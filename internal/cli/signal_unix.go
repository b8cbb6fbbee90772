// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package cli

import (
	"os"
	"syscall"
)

var statusSignal os.Signal = syscall.SIGUSR1

// stopSignals end a run; the exit code is 128 and the number.
var stopSignals = map[os.Signal]*SignalError{
	syscall.SIGINT:  {Code: ExitInt, Name: "SIGINT"},
	syscall.SIGTERM: {Code: ExitTerm, Name: "SIGTERM"},
	syscall.SIGHUP:  {Code: ExitHangup, Name: "SIGHUP"},
}

// pipeSignal kills a Go program that writes to a closed stdout unless it is
// taken: then the write returns EPIPE.
var pipeSignal os.Signal = syscall.SIGPIPE
