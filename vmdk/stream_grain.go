// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/vmstream/vmstream/disk"
)

// firstReadBytes is how much of a record is read before its length is known.
const firstReadBytes = 8 << 10

// grainInflater keeps what inflating needs, to be used again.
type grainInflater struct{ pool sync.Pool }

type inflateState struct {
	in  bytes.Reader
	z   io.ReadCloser // nil before its first use
	buf []byte        // compressed data with its marker
}

// readCompressed fills dst with a segment, which lies in one grain. A whole
// grain is inflated where it is wanted; a part of one is taken from a grain
// that stays cached, so that reading in small steps inflates once.
func (g *grainExtent) readCompressed(dst []byte, s segment) error {
	index := s.Offset / g.grainBytes
	inGrain := s.Offset - index*g.grainBytes
	length := g.grainLength(index)
	key := cacheKey{extent: g.id, index: index}
	if b, ok := g.shared.grains.Get(key); ok {
		copy(dst, b[inGrain:])
		return nil
	}
	at := s.pos - inGrain
	if int64(len(dst)) == length {
		return g.inflateGrain(dst, index, at)
	}
	b := make([]byte, length)
	if err := g.inflateGrain(b, index, at); err != nil {
		return err
	}
	g.shared.grains.Put(key, b, length)
	copy(dst, b[inGrain:])
	return nil
}

// inflateGrain inflates the grain whose record is at a byte offset to dst,
// which is as long as the part of the grain that lies on the disk.
func (g *grainExtent) inflateGrain(dst []byte, index, at int64) error {
	st, _ := g.unzip.pool.Get().(*inflateState)
	if st == nil {
		st = &inflateState{}
	}
	defer g.unzip.pool.Put(st)
	data, err := g.readRecord(st, index, at)
	if err != nil {
		return err
	}
	if err := st.inflate(dst, data, g.grainBytes); err != nil {
		return g.src.fail(disk.ErrCorrupt, fmt.Sprintf("compressed grain %d", index), at, "%v", err)
	}
	return nil
}

// readRecord reads a record and checks that it is the grain's.
func (g *grainExtent) readRecord(st *inflateState, index, at int64) ([]byte, error) {
	left := g.src.sizeBytes - at
	if left < markerBytes+4 {
		return nil, g.src.fail(disk.ErrTruncated, "grain marker", at, "the file ends there")
	}
	if st.buf == nil {
		st.buf = make([]byte, markerBytes+maxCompressed(g.grainBytes))
	}
	first := min(left, firstReadBytes, int64(len(st.buf)))
	if err := g.src.readFull(st.buf[:first], uint64(at), "grain marker"); err != nil {
		return nil, err
	}
	m := parseMarker(st.buf)
	want := uint64(index * g.grainBytes / disk.SectorSize)
	switch {
	case m.size == 0:
		return nil, g.src.fail(disk.ErrCorrupt, "grain marker", at, "there is no grain, but the tables say so")
	case m.val != want:
		return nil, g.src.fail(disk.ErrCorrupt, "grain marker", at, "is for sector %d of the disk, the tables say %d", m.val, want)
	case int64(m.size) > maxCompressed(g.grainBytes):
		return nil, g.src.fail(disk.ErrCorrupt, "grain marker", at, "%d compressed bytes for a grain of %d", m.size, g.grainBytes)
	}
	total := markerBytes + int64(m.size)
	if total > first {
		if err := g.src.readFull(st.buf[first:total], uint64(at+first), "compressed grain"); err != nil {
			return nil, err
		}
	}
	return st.buf[markerBytes:total], nil
}

var (
	errInflateShort   = errors.New("it inflates to less than the grain")
	errInflateLong    = errors.New("it inflates to more than the grain")
	errInflateGarbage = errors.New("there is something behind its end")
)

// inflate fills dst. The data may hold as much as dst takes, or a whole grain
// of which dst is the part on the disk, and nothing else. The checksum at the
// end is always compared.
func (st *inflateState) inflate(dst, data []byte, grainBytes int64) error {
	st.in.Reset(data)
	var err error
	if st.z == nil {
		st.z, err = zlib.NewReader(&st.in)
	} else {
		err = st.z.(zlib.Resetter).Reset(&st.in, nil)
	}
	if err != nil {
		st.z = nil
		return err
	}
	if _, err := io.ReadFull(st.z, dst); err != nil {
		if errors.Is(err, io.EOF) {
			return errInflateShort
		}
		return err
	}
	rest, err := io.Copy(io.Discard, io.LimitReader(st.z, grainBytes-int64(len(dst))+1))
	switch {
	case err != nil:
		return err
	case rest > grainBytes-int64(len(dst)):
		return errInflateLong
	case rest != 0 && rest != grainBytes-int64(len(dst)):
		return errInflateShort
	case st.in.Len() > 0:
		return errInflateGarbage
	}
	return nil
}
