// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi

import (
	"errors"
	"fmt"
)

// Kinds of trouble with a device, for errors.Is.
var (
	ErrReserved    = errors.New("reserved by another host")    // a reservation conflict
	ErrUnsupported = errors.New("not supported by the device") // an illegal request: command, page or field
	ErrNotReady    = errors.New("not ready")
	ErrBusy        = errors.New("busy")
	ErrMedium      = errors.New("medium error")
	ErrHardware    = errors.New("hardware error")
	ErrProtected   = errors.New("write-protected")
	ErrAttention   = errors.New("unit attention") // reset, changed, or replaced, again and again
	ErrInvalid     = errors.New("invalid answer") // breaks a rule of the standard
	ErrNoDevice    = errors.New("no such device")
)

// CommandError is the answer of a device to a command that it did not carry out.
type CommandError struct {
	Device  string // its node, or another name
	Command string
	Status  Status
	Sense   Sense // zero if there was none
}

// Error returns the message on one line.
func (e *CommandError) Error() string {
	s := e.Status.String()
	if e.Status == StatusCheckCondition {
		s = e.Sense.String()
	}
	if k := e.Unwrap(); errors.Is(k, ErrReserved) {
		s += ": " + k.Error()
	}
	return fmt.Sprintf("%s: %s: %s", e.Device, e.Command, s)
}

// Unwrap returns the kind of the error, nil if it is none of them.
func (e *CommandError) Unwrap() error {
	switch e.Status {
	case StatusReservationConflict:
		return ErrReserved
	case StatusBusy, StatusTaskSetFull:
		return ErrBusy
	case StatusCheckCondition:
		return e.Sense.kind()
	}
	return nil
}

// answerError is for an answer that breaks a rule.
func (d *Device) answerError(command, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %s: %w", d.name, command, fmt.Sprintf(format, args...), ErrInvalid)
}

// nilIfUnsupported is for what devices need not have.
func nilIfUnsupported(err error) error {
	if errors.Is(err, ErrUnsupported) {
		return nil
	}
	return err
}
