// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package scsilab runs a program in a guest whose kernel has tape drives and a changer,
// or disks that two host adapters see, for tests of what uses them. The kernel's drivers
// are the real ones. Tape drives and changer are package library, in the same guest;
// cartridges are small, and outlive the guest if they are kept in an image. Disks are
// those of Linux's own target and of the module scsi_debug.
//
// Nothing needs root, KVM or a kernel with SCSI on the host.
package scsilab
