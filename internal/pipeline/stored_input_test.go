// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"bytes"
	"io"
	"runtime"
	"sync"
	"testing"

	"github.com/vmstream/vmstream/sinks"
)

// heldObject is an object in memory.
type heldObject struct{ *bytes.Reader }

func (o heldObject) Close() error     { return nil }
func (o heldObject) Info() sinks.Info { return sinks.Info{SizeBytes: o.Size()} }

// TestStoredInputFrom has somebody still read ahead, as a codec does, while reading goes
// on elsewhere: that gets all of its bytes.
func TestStoredInputFrom(t *testing.T) {
	content := make([]byte, 20<<20)
	for i := range content {
		content[i] = byte(i * 2654435761 >> 13)
	}
	for round := range int64(6) {
		in := &StoredInput{ctx: t.Context(), ranges: heldObject{bytes.NewReader(content)}}
		var first [1]byte
		if _, err := io.ReadFull(in, first[:]); err != nil {
			t.Fatal(err)
		}
		var ahead sync.WaitGroup
		ahead.Go(func() {
			b := make([]byte, 1000)
			for {
				n, err := in.Read(b)
				if err != nil || n == 0 {
					return
				}
				runtime.Gosched()
			}
		})
		for _, off := range []int64{round * 1000, 9<<20 + round, 20<<20 - 3} {
			r, err := in.from(off)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(io.LimitReader(r, 10<<20)); err != nil || !bytes.Equal(got, content[off:min(off+10<<20, 20<<20)]) {
				t.Fatalf("from %d on: %d bytes, which differ: %v", off, len(got), err)
			}
		}
		ahead.Wait()
		if _, err := in.Read(first[:]); err == nil {
			t.Error("the first reader still reads")
		}
		if err := in.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
