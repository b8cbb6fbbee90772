// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"io"

	"github.com/vmstream/vmstream/stream"
)

// partOf returns what lets a reader pass over disks of a stream in a file or in a sink
// with ranges. It is nil if the input has to be read in order, and if it is no single
// stream that tells of itself at its end: what is wrong with it, reading tells.
func partOf(r io.Reader) *stream.Part {
	if in, ok := r.(*StoredInput); ok {
		if in.ranges == nil {
			return nil
		}
		res, err := in.FindIndex()
		if err != nil {
			return nil
		}
		return &stream.Part{Index: res.Index, From: in.from}
	}
	f, at := regularFile(r)
	if f == nil || at != 0 {
		return nil
	}
	st, err := f.Stat()
	if err != nil {
		return nil
	}
	res, err := stream.FindIndex(f, st.Size())
	if err != nil {
		return nil
	}
	return &stream.Part{Index: res.Index}
}
