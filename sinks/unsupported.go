// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package sinks

import (
	"context"
	"fmt"
	"iter"
)

// Unsupported has the methods of a Sink that takes streams and gives them back whole, and
// cannot do more: each fails with ErrUnsupported. A sink embeds it.
type Unsupported struct {
	What string // that cannot do it, such as "exec: a command"
}

func (u Unsupported) fail(method string) error {
	return fmt.Errorf("%s has no %s: %w", u.What, method, ErrUnsupported)
}

// OpenAt implements Sink.
func (u Unsupported) OpenAt(context.Context, string) (RangeReader, error) {
	return nil, u.fail("OpenAt")
}

// Stat implements Sink.
func (u Unsupported) Stat(context.Context, string) (Info, error) { return Info{}, u.fail("Stat") }

// List implements Sink.
func (u Unsupported) List(context.Context, string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) { yield(Info{}, u.fail("List")) }
}

// Delete implements Sink.
func (u Unsupported) Delete(context.Context, string) error { return u.fail("Delete") }

// Orphans implements Sink.
func (u Unsupported) Orphans(context.Context, string) iter.Seq2[Orphan, error] {
	return func(yield func(Orphan, error) bool) { yield(Orphan{}, u.fail("Orphans")) }
}

// RemoveOrphan implements Sink.
func (u Unsupported) RemoveOrphan(context.Context, Orphan) error { return u.fail("RemoveOrphan") }

// Close implements Sink.
func (u Unsupported) Close() error { return nil }
