// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package scsi knows the LUNs of a machine: by which names they go, who they say that
// they are, who has reserved them, and which of their blocks hold nothing.
//
// A LUN is told by the id that it has itself (NAA, EUI-64, T10 vendor), never by its
// address: that changes when it is presented elsewhere. Names such as vmhba1:2:0:3 are
// addresses, so a [Table] keeps which id they stand for.
//
// Commands go to a [Port], which is a device of Linux, by the ioctl SG_IO, or the device
// of package scsitest. What a device answers is taken for hostile: lengths are looked at
// before they are believed. Commands and fields are those of SPC-4 and SBC-3, and of
// SPC-2 for RESERVE and RELEASE.
package scsi
