// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package vm reads what makes a machine out of disks: the configuration (.vmx,
// and .cfg of ESX 1.x and GSX 1.x), the list of snapshots (.vmsd), and the
// files beside them. It finds the disks a configuration names on this host and
// the other files a backup carries; it opens no disk and changes no file.
//
// Everything read here is hostile: sizes are bounded before anything is
// allocated, and the small files of a machine are only taken from the
// directory of its configuration.
//
// Format facts come from the project's notes on VMware virtual disk files,
// chapters "ESX 2.x disks" and "VM files", which were checked against the
// configurations of real machines that the tests read.
package vm
