// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsi

import (
	"context"
	"fmt"
	"time"
)

// Command is a command to a device. At most one of In and Out may be set.
type Command struct {
	Name    string        // for messages, such as "RESERVE(6)"
	CDB     []byte        // 6, 10, 12 or 16 bytes
	In      []byte        // room for what the device answers
	Out     []byte        // what it is given
	Timeout time.Duration // 30 s if 0
}

// defaultTimeout is what a command may take that has no time of its own.
const defaultTimeout = 30 * time.Second

// Result is how a command ended. A device that refuses is no error of a port.
type Result struct {
	Status Status
	Sense  []byte // what the device said of a status that is not good
	Moved  int    // bytes of In or Out that went over
}

// Status is the status byte of a command.
type Status byte

// The statuses that devices give.
const (
	StatusGood                Status = 0x00
	StatusCheckCondition      Status = 0x02
	StatusConditionMet        Status = 0x04
	StatusBusy                Status = 0x08
	StatusReservationConflict Status = 0x18
	StatusTaskSetFull         Status = 0x28
	StatusACAActive           Status = 0x30
	StatusTaskAborted         Status = 0x40
)

// String returns the status in words.
func (s Status) String() string {
	switch s {
	case StatusGood:
		return "good"
	case StatusCheckCondition:
		return "check condition"
	case StatusConditionMet:
		return "condition met"
	case StatusBusy:
		return "busy"
	case StatusReservationConflict:
		return "reservation conflict"
	case StatusTaskSetFull:
		return "task set full"
	case StatusACAActive:
		return "ACA active"
	case StatusTaskAborted:
		return "task aborted"
	}
	return fmt.Sprintf("status 0x%02x", byte(s))
}

// Scope says how much a reset takes with it.
type Scope int

// The scopes of a reset.
const (
	ResetLUN Scope = iota + 1
	ResetTarget
)

// Port passes commands to one device. It is safe for concurrent use, except that Close
// comes last. An error says that the command did not reach the device, or that no answer
// came back; what the device says is in the result.
type Port interface {
	Execute(ctx context.Context, c *Command) (Result, error)
	Reset(ctx context.Context, s Scope) error
	Close() error
}
