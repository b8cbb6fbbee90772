// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package redo

import (
	"context"
	"testing"
)

// background is for calls that are never cancelled.
func background() context.Context { return context.Background() }

// noise returns a disk without zero sectors.
func noise(sectors int, seed byte) []byte {
	b := make([]byte, sectors*512)
	for i := range b {
		b[i] = seed + byte(i/512)*3 | 1
	}
	return b
}

func TestAddWriteCommitDiscard(t *testing.T) {
	for _, kind := range baseKinds() {
		t.Run(string(kind), func(t *testing.T) {
			d := newTestDisk(t, t.TempDir(), kind, noise(5001, 9))
			d.add()
			d.wantContent("after add", d.top(), d.model)
			d.write(piece{0, 1, 50}, piece{700, 300, 0}, piece{4990, 11, 70})
			d.wantContent("after write", d.top(), d.model)
			d.add()
			d.write(piece{1, 2, 80}, piece{500, 600, 90})
			d.wantContent("after second write", d.top(), d.model)
			d.commit(1)
			d.wantContent("after commit of the lower", d.top(), d.model)
			d.commit(0)
			d.wantContent("after commit", d.top(), d.model)
			d.add()
			d.write(piece{10, 4000, 1})
			d.discard()
			d.wantContent("after discard", d.top(), d.model)
			if got := len(d.files()); got > 4 {
				t.Errorf("left over: %v", d.files())
			}
		})
	}
}
