// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package snapshot gives a backup disks that stand still while it reads them,
// of a machine that may go on running.
//
// Every way to get them is a [Provider] with one contract. [Take] notes in a
// [Journal] what is going to be done, lets the provider do it, and returns a
// [Snapshot] with the disks open. [Snapshot.Release] undoes it, on every way
// out. What a run leaves that could not release its snapshot, because it was
// killed, stays in the journal: [Reap] ends it.
//
// The journal says before each step what the step will leave. So a provider
// can always tell what is there, whatever point a run was killed at, and
// everything it does to undo a step may be done again.
package snapshot
