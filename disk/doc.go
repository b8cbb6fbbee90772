// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package disk says what a virtual disk is to everybody else: an [Image] that
// can be read at any offset and that tells, without reading data, which ranges
// hold data and which are known to be zero; a [Writer] that takes such a disk;
// zero detection; and the errors that format code reports.
//
// Lengths and offsets are in bytes unless a name says sectors. A sector is 512
// bytes, always.
package disk
