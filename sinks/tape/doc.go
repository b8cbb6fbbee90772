// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package tape has the sink that is a tape drive, or a virtual one in a directory.
//
// A volume begins with a label. Behind it are pairs of tape files: the bytes of a
// stream, and a trailer, which makes them an object and has the directory of all
// streams of the set. Labels and trailers are tar archives with a JSON document in
// them. docs/tape.md has the layout, docs/adr/0009-tape-layout.md the reasons.
package tape
