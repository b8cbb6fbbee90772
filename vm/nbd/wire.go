// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// Numbers of the protocol, proto.md "Values". All integers are big-endian.
const (
	magicInit        = 0x4e42444d41474943 // NBDMAGIC
	magicOption      = 0x49484156454F5054 // IHAVEOPT
	magicOptionReply = 0x0003e889045565a9
	magicRequest     = 0x25609513
	magicSimple      = 0x67446698
	magicStructured  = 0x668e33ef

	flagFixedNewstyle = 1 << 0 // handshake, both sides
	flagNoZeroes      = 1 << 1

	optAbort           = 2
	optGo              = 7
	optStructuredReply = 8
	optSetMetaContext  = 10

	repAck         = 1
	repInfo        = 3
	repMetaContext = 4
	repError       = 1 << 31
	repErrUnsup    = repError | 1
	repErrPolicy   = repError | 2
	repErrTLS      = repError | 5
	repErrUnknown  = repError | 6

	infoExport    = 0
	infoBlockSize = 3

	transHasFlags  = 1 << 0
	transMultiConn = 1 << 8

	cmdRead        = 0
	cmdDisc        = 2
	cmdBlockStatus = 7

	replyFlagDone    = 1 << 0
	replyNone        = 0
	replyOffsetData  = 1
	replyOffsetHole  = 2
	replyBlockStatus = 5
	replyError       = 1 << 15 // all errors
	replyErrorOffset = replyError | 2

	// of base:allocation; bit 0, a hole, says nothing about content
	stateZero = 1 << 1
	// of qemu:dirty-bitmap
	stateDirty = 1 << 0
)

// Limits. The protocol allows more than any server that we read from sends.
const (
	maxName         = 4096     // bytes of a string, by the protocol
	maxOptionReply  = 64 << 10 // bytes
	maxOptionChunks = 256      // replies to one option
	maxContexts     = 32
	maxRequest      = 32 << 20 // bytes of one read, by the protocol unless the server says less
	maxStatusReply  = 4 << 20  // bytes of one chunk of extents; QEMU stops at 1 MiB
	maxMinBlock     = 64 << 10 // by the protocol
	maxErrorText    = 4096
	maxStatusChunks = 4 * maxContexts
)

// AllocationContext is the metadata context that tells zeros from data.
const AllocationContext = "base:allocation"

// BitmapContext returns the name of the metadata context of a dirty bitmap of
// QEMU.
func BitmapContext(bitmap string) string { return "qemu:dirty-bitmap:" + bitmap }

// Error is what a server says of a request that failed.
type Error struct {
	Op     string
	Code   uint32 // an errno as the protocol numbers them, or an option's error
	Text   string
	Offset int64 // -1 if there is none
}

// Error returns it on one line.
func (e *Error) Error() string {
	s := "nbd: " + e.Op
	if e.Offset >= 0 {
		s += fmt.Sprintf(" at 0x%x", e.Offset)
	}
	s += ": the server reports " + errnoText(e.Code)
	if e.Text != "" {
		s += ": " + printable(e.Text)
	}
	return s
}

func errnoText(code uint32) string {
	names := map[uint32]string{1: "EPERM", 5: "EIO", 12: "ENOMEM", 22: "EINVAL", 28: "ENOSPC", 75: "EOVERFLOW", 95: "ENOTSUP", 108: "ESHUTDOWN"}
	if s, ok := names[code]; ok {
		return s
	}
	if code&repError != 0 {
		return fmt.Sprintf("option error %d", code&^repError)
	}
	return fmt.Sprintf("error %d", code)
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// broken is a breach of the protocol: the connection is of no use after it.
func broken(field, format string, args ...any) error {
	return &disk.FormatError{Format: "nbd", Field: field, Offset: -1, Err: disk.ErrCorrupt, Detail: fmt.Sprintf(format, args...)}
}
