// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package vmdk reads VMware virtual disks of every kind as [disk.Image] and
// writes the kinds that a restore can ask for.
//
// Format facts come from VMware's "Virtual Disk Format" technical notes 1.1
// and 5.0 and from the project's notes on what real writers do; where a
// constant needs its source, the source stands beside it.
package vmdk
