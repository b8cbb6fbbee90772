// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package sinks

import (
	"errors"
	"io/fs"
)

// Kinds of errors.
var (
	// ErrExists: an object is under the key, and replacing it was not asked for.
	ErrExists = fs.ErrExist
	// ErrNotExist: no object is under the key.
	ErrNotExist = fs.ErrNotExist
	// ErrUnsupported: the sink cannot do this.
	ErrUnsupported = errors.ErrUnsupported
	// ErrTransient: the same call may succeed later.
	ErrTransient = errors.New("may go away by itself")
	// ErrExhausted: it has been tried again, as often as makes sense.
	ErrExhausted = errors.New("tried often enough")
	// ErrUnknown: the answer to a Commit got lost, and asking again did not help
	// either: the object may be there, whole, or not.
	ErrUnknown = errors.New("not known if it was stored")
	// ErrShort: the sink has not got as many bytes as End says.
	ErrShort = errors.New("not all bytes have arrived")
	// ErrTarget: a target, or an option in it, that cannot be meant.
	ErrTarget = errors.New("no target")
)
