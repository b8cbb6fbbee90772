// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package tapelab runs a program in a guest whose kernel has tape drives and a changer,
// for tests of what uses them. The kernel's drivers st, sg and ch are the real ones;
// what they drive is package library, in the same guest. Cartridges are small, and
// outlive the guest if they are kept in an image.
//
// Nothing needs root, KVM or a kernel with SCSI on the host.
package tapelab
