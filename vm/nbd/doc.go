// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package nbd reads an NBD export as a [disk.Image]: what is allocated by
// base:allocation, what has changed by QEMU's dirty bitmaps. It never writes.
// Facts come from the NBD protocol document (NetworkBlockDevice/nbd,
// doc/proto.md) and from QEMU's docs/interop/nbd.txt.
//
// Every length that a server sends is checked before it is used: against what
// was asked for, and against the limits in wire.go.
package nbd
