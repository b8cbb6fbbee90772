// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package repotest holds tests about the tree itself: which package imports
// which, licence lines, doc comments, seeds of fuzz targets, lengths of files,
// dependencies. It has no code besides its tests.
package repotest
