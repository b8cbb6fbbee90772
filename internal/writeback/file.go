// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package writeback writes long files that are to be durable in the end.
package writeback

import (
	"os"
	"sync/atomic"
)

// PieceBytes is how much of a long file is best written at once. A write of 512 KiB and
// more goes through memory twice; and one of 1 MiB takes several times as long where the
// system keeps files in blocks of 2 MiB that its own host has taken back (Linux 6.18,
// ext4, a guest that reports its free pages).
const PieceBytes = 128 << 10

// stepBytes is how much is written until the system is asked to begin with it.
const stepBytes = 16 << 20

// File is a file or device whose content the system begins to write out while more is
// still being written to it, so that little is left to do for Sync in the end. Nothing
// is durable before Sync. Its methods may be called concurrently, as those of [os.File].
type File struct {
	*os.File
	pending atomic.Int64 // bytes
}

// New returns f as a File. There is to be one of them for a file.
func New(f *os.File) *File { return &File{File: f} }

// Write is [os.File.Write].
func (f *File) Write(p []byte) (int, error) {
	return f.pieces(p, func(p []byte, _ int) (int, error) { return f.File.Write(p) })
}

// WriteAt is [os.File.WriteAt].
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	return f.pieces(p, func(p []byte, done int) (int, error) { return f.File.WriteAt(p, off+int64(done)) })
}

func (f *File) pieces(p []byte, write func(p []byte, done int) (int, error)) (int, error) {
	return Pieces(p, func(p []byte, done int) (int, error) {
		n, err := write(p, done)
		f.wrote(n)
		return n, err
	})
}

// Pieces calls write for p in pieces of [PieceBytes], the last one shorter, until all is
// written or there is an error; once if p is empty. done is how much of p is written.
func Pieces(p []byte, write func(p []byte, done int) (int, error)) (int, error) {
	for done := 0; ; {
		n, err := write(p[done:min(done+PieceBytes, len(p))], done)
		if done += n; err != nil || done == len(p) {
			return done, err
		}
	}
}

func (f *File) wrote(n int) {
	if f.pending.Add(int64(n)) < stepBytes {
		return
	}
	if f.pending.Swap(0) >= stepBytes { // else another writer has been faster
		start(f.File)
	}
}
