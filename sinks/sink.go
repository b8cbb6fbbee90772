// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package sinks

import (
	"context"
	"io"
	"iter"
	"time"
)

// Sink stores objects, which are bytes under keys. Its methods may be called by
// several goroutines. What it cannot do, as its [Capabilities] say, gives
// [ErrUnsupported].
//
// Errors are wrapped, and errors.Is finds [ErrExists], [ErrNotExist],
// [ErrUnsupported] and [ErrTransient] in them where they apply.
type Sink interface {
	// Capabilities says what the sink can do. It is the same at every call.
	Capabilities() Capabilities
	// Create begins a new object. It is under its key once Commit has returned
	// without an error, and nothing is before. ctx bounds the writing: when it ends,
	// Write fails, and the caller still calls Abort.
	Create(ctx context.Context, key string, o CreateOptions) (Writer, error)
	// Open reads an object from its first byte to its last. An object that is cut
	// short or changes meanwhile gives an error, never an early io.EOF. ctx bounds
	// the reading.
	Open(ctx context.Context, key string) (io.ReadCloser, Info, error)
	// OpenAt reads an object at any offset. ctx bounds all its reads.
	OpenAt(ctx context.Context, key string) (RangeReader, error)
	// Stat tells of an object.
	Stat(ctx context.Context, key string) (Info, error)
	// List tells of all objects whose keys begin with prefix, in the order of
	// their keys as bytes. An error is the last pair.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
	// Delete removes an object. One that is not there gives ErrNotExist.
	Delete(ctx context.Context, key string) error
	// Orphans tells of what writers have left behind that neither committed nor
	// aborted, for keys that begin with prefix. Some may belong to a writer that is
	// at work: the age tells.
	Orphans(ctx context.Context, prefix string) iter.Seq2[Orphan, error]
	// RemoveOrphan removes one of them.
	RemoveOrphan(ctx context.Context, o Orphan) error
	// Close ends the use of the sink. Writers and readers have been closed before.
	Close() error
}

// Writer takes the bytes of an object in order. It is used by one goroutine,
// and ends with Commit or with Abort.
type Writer interface {
	// Write takes all of p or fails. An error is final: what is left is Abort.
	// What sinks cannot tell at once comes with a later Write or with Commit.
	io.Writer
	// Commit makes the object appear under its key, on stable storage, and tells of
	// it. The sink compares end with what it has got, and does not commit anything
	// else. After an error the object is not there, unless the error says that
	// this is not known, see ErrUnknown; the writer has ended either way.
	Commit(ctx context.Context, end End) (Info, error)
	// Abort ends the writer without an object and removes what it has stored,
	// but keeps it where CreateOptions.Keep says so. It may be called at any time,
	// also after Commit, when it does nothing.
	Abort(ctx context.Context) error
}

// RangeReader is an object that is read at any offset, by several goroutines.
type RangeReader interface {
	io.ReaderAt
	io.Closer
	Info() Info
}

// CreateOptions say how an object comes to be. The zero value is good.
type CreateOptions struct {
	// Overwrite replaces an object of that key. Otherwise one that is there, or
	// that appears before Commit, is an error, ErrExists.
	Overwrite bool
	// Keep leaves what was stored when the writer is aborted or its process dies,
	// so that Resume can go on with it. It shows among the orphans.
	Keep bool
	// Resume goes on with what an earlier writer of this key has left, if there is
	// something. The caller writes the same bytes again from the first one; the
	// sink sends what is missing, and compares or sends again the rest.
	Resume bool
	// SizeHintBytes is about how long the object will be, 0 if nobody knows.
	SizeHintBytes int64
	// ID is that of the backup, for stores that keep a label.
	ID string
}

// End is what the producer says when it has written everything.
type End struct {
	SizeBytes int64 // of the object
	// Digest is the SHA-256 of the stream's SHA256SUMS, in hexadecimal, as the end
	// record has it; empty if the object is no stream.
	Digest string
}

// Info tells of an object.
type Info struct {
	Key       string
	SizeBytes int64     // -1 if the sink cannot tell
	Modified  time.Time // zero if the sink cannot tell
	Version   string    // changes with the content, such as an ETag; empty if the sink cannot tell
}

// Orphan is what a writer has left.
type Orphan struct {
	Key       string
	ID        string    // what it is known by: a file's name, an upload's id
	SizeBytes int64     // -1 if the sink cannot tell
	Begun     time.Time // zero if the sink cannot tell
}

// Capabilities are what a sink can do besides creating objects.
type Capabilities struct {
	Read    bool `json:"read"`    // Open
	Range   bool `json:"range"`   // OpenAt
	Stat    bool `json:"stat"`    // Stat
	List    bool `json:"list"`    // List
	Delete  bool `json:"delete"`  // Delete
	Resume  bool `json:"resume"`  // CreateOptions.Keep and Resume
	Orphans bool `json:"orphans"` // Orphans and RemoveOrphan
	// Atomic sinks show nothing under a key before Commit. A program that is fed
	// through a pipe can be no better than it is.
	Atomic bool `json:"atomic"`
	// Exclusive sinks refuse to replace an object also if two writers race.
	Exclusive bool `json:"exclusive"`
	// Concurrent sinks can have several writers and readers at a time.
	Concurrent bool `json:"concurrent"`
	// MaxObjectBytes bounds the length of an object; 0: no bound is known.
	MaxObjectBytes int64 `json:"max_object_bytes,omitempty"`
}
