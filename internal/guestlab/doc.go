// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package guestlab runs a small Linux guest in QEMU for tests of backups of a
// running machine. The guest writes numbered, checksummed records to ext4 and
// tells of each one as soon as it is durable; the checker reads them out of an
// image of the disk and finds out whether that is the disk as it was at one
// point in time.
//
// Nothing needs root or KVM. The kernel is one of Debian's (see
// scripts/guest-kernel.sh), the init is the program in guest, and both are put
// together when a test runs.
package guestlab
