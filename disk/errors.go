// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"fmt"
	"strings"
)

// Kinds of trouble with a disk or a stream, for errors.Is.
var (
	ErrCorrupt     = errors.New("corrupt")           // breaks a rule of its format
	ErrTruncated   = errors.New("truncated")         // ends before what its own metadata promises
	ErrUnsupported = errors.New("not supported")     // well-formed, but nothing we can read
	ErrMismatch    = errors.New("does not match")    // two parts that belong together differ
	ErrUnknown     = errors.New("unknown format")    // no magic, no descriptor: the user must say what it is
	ErrOutside     = errors.New("outside directory") // names a file outside the directory it was given
	ErrInUse       = errors.New("in use")            // somebody else has it open
)

// FormatError tells what is wrong in a file and where.
// Its text reads «file: format: field at 0xoffset: what».
type FormatError struct {
	File   string // path as opened; may be empty
	Format string // such as "vmdk sparse extent"
	Field  string // field or structure, such as "grain directory entry 17"
	Offset int64  // byte offset in the file, -1 if there is none
	Err    error  // one of the kinds above, or wraps one
	Detail string // what was found and what was expected
}

// Error returns the message on one line.
func (e *FormatError) Error() string {
	var b strings.Builder
	for _, s := range []string{e.File, e.Format} {
		if s != "" {
			b.WriteString(s)
			b.WriteString(": ")
		}
	}
	b.WriteString(e.Field)
	if e.Offset >= 0 {
		fmt.Fprintf(&b, " at 0x%x", e.Offset)
	}
	if e.Field != "" || e.Offset >= 0 {
		b.WriteString(": ")
	}
	if e.Detail != "" {
		b.WriteString(e.Detail)
		if e.Err != nil {
			fmt.Fprintf(&b, " (%v)", e.Err)
		}
		return b.String()
	}
	if e.Err != nil {
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the kind of the error.
func (e *FormatError) Unwrap() error { return e.Err }
