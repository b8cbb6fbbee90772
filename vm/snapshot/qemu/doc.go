// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package qemu makes snapshots of running QEMU and KVM machines over QMP, and
// keeps track of changes in QEMU's dirty bitmaps. docs/adr has the reasons.
//
// Two ways lead to disks that stand still. *Fleecing*: before the guest
// overwrites something, QEMU saves it to a scratch file; the guest's disks stay
// where they are, so nothing is to be repaired if QEMU dies. *Overlay*: the guest
// goes on in a new qcow2 file and its disk stands still, until what was written
// meanwhile has been committed. Either way QEMU serves the frozen disk as a
// read-only NBD export.
//
// Everything that is made in QEMU has a name with the tag of this snapshot, and
// the names are noted before the first step. Undoing asks QEMU what is there of
// these names and removes that, so it may begin at any point and again.
package qemu
