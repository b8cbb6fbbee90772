// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package stream is the archive: a tar of one VM whose disks are VMDK extents,
// written in one pass and read in one pass. docs/format.md is its definition.
//
// [Write] turns disk images and files into a stream; [Read] checks a stream to
// its last byte and hands what it holds to a [Sink]. Both work on several
// segments at a time and keep their order, so that the bytes do not depend on
// the number of workers.
package stream
