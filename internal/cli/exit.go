// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package cli is what every command shares: exit codes, events and messages on
// stderr, progress, signals, sizes.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/stream"
)

// Exit codes. They are an interface: docs/scripting.md promises them.
const (
	ExitDone     = 0
	ExitFailed   = 1 // anything else, also trouble with the target of a restore
	ExitUsage    = 2
	ExitWarnings = 3 // complete, but with warnings
	ExitDamage   = 4 // verification found damage; what was being restored is not to be used
	ExitSource   = 5 // trouble with the source or its snapshot
	ExitSink     = 6 // trouble writing the stream
	ExitAudit    = 7 // what tells the changes of a disk has been found wrong
	ExitVMkernel = 8 // only the kernel of ESX can do it
	ExitHangup   = 128 + 1
	ExitInt      = 128 + 2
	ExitTerm     = 128 + 15
)

// Error is an error with an exit code and, perhaps, a line that helps.
type Error struct {
	Code int
	Err  error
	Hint string
}

// Error returns the message without the hint.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Usage returns a usage error.
func Usage(err error) error { return &Error{Code: ExitUsage, Err: err} }

// Source marks err as trouble with a source; nil stays nil. A failure to write
// the stream keeps its own code.
func Source(err error) error {
	if err == nil || stream.ErrOutput(err) {
		return err
	}
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	code := ExitSource
	if errors.Is(err, stream.ErrUntrusted) {
		code = ExitAudit
	}
	return &Error{Code: code, Err: err, Hint: reservedHint(err)}
}

// reservedHint says how to find out if a device cannot be read because another host has
// reserved it: the kernel tells of that as of any other error.
func reservedHint(err error) string {
	pe, ok := errors.AsType[*fs.PathError](err)
	if !ok || !errors.Is(err, syscall.EIO) || !strings.HasPrefix(pe.Path, "/dev/") {
		return ""
	}
	return fmt.Sprintf("perhaps another host has reserved it: vmstream scsi info %s tells", pe.Path)
}

// Stream marks err, which came from reading a stream; nil stays nil.
func Stream(err error) error {
	if err == nil || errors.Is(err, stream.ErrTarget) || errors.Is(err, context.Canceled) {
		return err
	}
	for _, kind := range []error{disk.ErrCorrupt, disk.ErrTruncated, disk.ErrMismatch, disk.ErrUnsupported} {
		if errors.Is(err, kind) {
			return &Error{Code: ExitDamage, Err: err}
		}
	}
	return err
}

// SignalError is the cause of a context that a signal has cancelled.
type SignalError struct {
	Code int
	Name string
}

// Error says which signal it was.
func (e *SignalError) Error() string { return "stopped by " + e.Name }

// Code returns the exit code for err, which may be nil.
func Code(err error) int {
	var sig *SignalError
	var coded *Error
	switch {
	case err == nil:
		return ExitDone
	case errors.As(err, &sig):
		return sig.Code
	case errors.As(err, &coded):
		return coded.Code
	case stream.ErrOutput(err):
		return ExitSink
	}
	return ExitFailed
}

// ErrWarnings is returned by a command that did its work and had something to
// warn of, which has been said already.
var ErrWarnings = &Error{Code: ExitWarnings, Err: errors.New("complete, with warnings")}
