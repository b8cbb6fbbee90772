// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"bytes"
	"io"
	"maps"
	"os"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/vmstream/vmstream/internal/testenv"
)

// image is a device in memory that costs what it holds: what is not there is zero.
type image struct {
	size   int64
	chunks map[int64][]byte
	own    map[int64]bool // chunks that no clone has, too
}

const chunkBytes = 64 << 10

func (m *image) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= m.size {
			return done, io.EOF
		}
		in := at % chunkBytes
		n := int(min(int64(len(p)-done), chunkBytes-in, m.size-at))
		if c := m.chunks[at/chunkBytes]; c != nil {
			copy(p[done:done+n], c[in:])
		} else {
			clear(p[done : done+n])
		}
		done += n
	}
	return done, nil
}

func (m *image) write(p []byte, off int64) {
	for len(p) > 0 {
		in := off % chunkBytes
		n := int(min(int64(len(p)), chunkBytes-in))
		c := m.chunks[off/chunkBytes]
		if !m.own[off/chunkBytes] {
			own := make([]byte, chunkBytes)
			copy(own, c)
			c = own
			m.chunks[off/chunkBytes] = c
			if m.own == nil {
				m.own = map[int64]bool{}
			}
			m.own[off/chunkBytes] = true
		}
		copy(c[in:], p[:n])
		p, off = p[n:], off+int64(n)
	}
}

// clone returns an image that can be changed; it costs what changes then.
func (m *image) clone() *image {
	if m.own != nil { // others may make clones of it at the same time
		m.own = nil
	}
	return &image{size: m.size, chunks: maps.Clone(m.chunks)}
}

// patched is a clone with other bytes at an offset.
func (m *image) patched(b []byte, off int64) *image {
	c := m.clone()
	c.write(b, off)
	return c
}

func readImage(tb testing.TB, r io.Reader) *image {
	tb.Helper()
	m := &image{chunks: map[int64][]byte{}}
	b, zeros := make([]byte, chunkBytes), make([]byte, chunkBytes)
	for {
		n, err := io.ReadFull(r, b)
		if !bytes.Equal(b[:n], zeros[:n]) { // fast with the race detector, too
			m.write(b[:n], m.size)
		}
		m.size += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return m
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// unpacked has the images that were unpacked before: some have gigabytes of zeros.
var unpacked sync.Map

func unpackImage(tb testing.TB, name string) *image {
	tb.Helper()
	if m, ok := unpacked.Load(name); ok {
		return m.(*image).clone()
	}
	f, err := os.Open(testenv.Corpus(tb, "vmfs/synthetic/"+name))
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	defer z.Close()
	m := readImage(tb, z)
	m.own = nil
	unpacked.Store(name, m)
	return m.clone()
}
