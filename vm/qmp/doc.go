// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package qmp is a client of the QEMU Machine Protocol: commands, events and
// file descriptors over a unix socket. Facts come from QEMU's documents
// qmp-spec and qemu-qmp-ref.
//
// The peer is not trusted to be well-behaved: the length of what it sends, and
// how much of that is kept, are bounded.
package qmp
