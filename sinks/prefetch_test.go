// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package sinks

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

type memory struct {
	*bytes.Reader
	known bool
	fail  int64 // reads behind it fail
}

var errTest = errors.New("broken on purpose")

func (m memory) Close() error { return nil }

func (m memory) Info() Info {
	if m.known {
		return Info{SizeBytes: m.Size()}
	}
	return Info{SizeBytes: -1}
}

func (m memory) ReadAt(p []byte, offset int64) (int, error) {
	if m.fail > 0 && offset >= m.fail {
		return 0, errTest
	}
	return m.Reader.ReadAt(p, offset)
}

func TestPrefetch(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abc"), 1000)
	for _, size := range []int{0, 1, 99, 100, 101, 400, len(content)} {
		for _, known := range []bool{true, false} {
			r := Prefetch(t.Context(), memory{Reader: bytes.NewReader(content[:size]), known: known}, PrefetchOptions{ChunkBytes: 100, Parallel: 3})
			if err := iotest.TestReader(r, content[:size]); err != nil {
				t.Errorf("%d bytes, known %v: %v", size, known, err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestPrefetchError(t *testing.T) {
	r := Prefetch(t.Context(), memory{Reader: bytes.NewReader(make([]byte, 1000)), known: true, fail: 500}, PrefetchOptions{ChunkBytes: 100, Parallel: 4})
	got, err := io.ReadAll(r)
	if len(got) != 500 || !errors.Is(err, errTest) {
		t.Errorf("%d bytes, then %v", len(got), err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
