// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package redo adds redo logs to disks, lists them, commits and discards them.
//
// Two ways of naming exist. On ESX 2.x a disk X is a raw file, its redo log is
// X.REDO, a COWD file, and the second one X.REDO.REDO: names are all there is.
// As of ESX 3 a link of a chain has a descriptor, which names its parent and
// the parent's content id (CID); deltas are called X-000001.vmdk and so on, but
// only hints and CIDs count. Both end in the same bytes: what a level stores,
// and below it the next one.
//
// Every change goes through an [FS] in an order that leaves a disk with the
// right content wherever it stops. Changes of several steps keep a journal
// beside the child; the same call again, or another that has the same purpose,
// carries it on. docs/adr/0005 has the order and the reasons.
//
// Levels are counted from the base, which is level 0. Sizes are in bytes. All
// functions may be called by any goroutine, but only one works in a directory
// at a time, over all processes: others get [disk.ErrInUse].
package redo
