// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package library is a tape library for tests: tape drives and a medium changer that
// answer SCSI commands, and hand them to the kernel through the user space backstore
// of Linux's target (TCMU). The kernel's own drivers st, sg and ch are what sees them.
package library
