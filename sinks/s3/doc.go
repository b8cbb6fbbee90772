// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package s3 stores objects in buckets of S3 and of servers that speak its
// protocol. An object of unknown length is sent as parts while it is written, several
// at a time, each with its CRC32C; it appears when its writer commits. Parts that
// are left of an interrupted upload are compared with what is written again and not
// sent twice.
//
// Nothing that a server answers is taken on trust: answers, lists and headers are
// bounded, redirects are not followed, and what has been stored is looked at before
// it is called stored.
package s3
