// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package sinks says what a place is that streams are stored in, and has what
// goes around one: retries, a rate limit, a spool, counters, a tee.
//
// A [Driver] opens the [Sink] that a target such as s3://bucket/web01.tar names.
// A sink knows bytes under keys and nothing of what is in them. Its one promise is
// that an object is under its key whole or not at all: it appears with
// [Writer.Commit], which says how long it has to be, and with nothing else, not
// with the end of the input and not with the end of a process.
//
// Package sinktest has the checks that every sink must pass.
package sinks
