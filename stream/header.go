// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"time"

	"github.com/vmstream/vmstream/disk"
)

const (
	blockSize = 512
	// endBlocks is the end of a tar: two blocks of zeros. Nothing is padded
	// to a record of 20 blocks: no tar asks for it when reading.
	endBlocks = 2 * blockSize

	// maxHeader is what a header takes at most: a pax header, its records
	// and the header proper. Names are short and numbers have their limits.
	maxHeader = 3 * blockSize
)

// member is what a header says.
type member struct {
	name    string // with the directory in front
	size    int64
	mode    int64
	modTime time.Time // whole seconds
	raw     []byte    // the header's blocks, if it has been read
}

// encode returns the header blocks: a ustar header, with pax records only for
// names and sizes that do not fit it.
func (m *member) encode() ([]byte, error) {
	var b bytes.Buffer
	err := tar.NewWriter(&b).WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: m.name, Size: m.size, Mode: m.mode,
		ModTime: m.modTime, Format: tar.FormatPAX,
	})
	if err == nil && b.Len() > maxHeader {
		err = fmt.Errorf("tar header of %q is %d bytes long", m.name, b.Len())
	}
	return b.Bytes(), err
}

// readHeader reads the next header. It accepts only what encode writes, so
// that no byte of it can change unseen, and returns how long it was. At the
// end blocks, m is nil.
func readHeader(r io.Reader) (m *member, length int64, err error) {
	b := make([]byte, blockSize, maxHeader)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, 0, err
	}
	if disk.IsZero(b) {
		return nil, blockSize, nil
	}
	if b[156] == tar.TypeXHeader { // offset of the type flag, POSIX.1-1988
		b = b[:maxHeader]
		if _, err := io.ReadFull(r, b[blockSize:]); err != nil {
			return nil, 0, eofUnexpected(err)
		}
	}
	h, err := tar.NewReader(bytes.NewReader(b)).Next()
	if err != nil {
		return nil, 0, recordError("tar header", "%v", err)
	}
	if h.Typeflag != tar.TypeReg || h.Size < 0 {
		return nil, 0, recordError("tar header", "member %q is of type %q, not a regular file", h.Name, h.Typeflag)
	}
	m = &member{name: h.Name, size: h.Size, mode: h.Mode, modTime: h.ModTime}
	want, err := m.encode()
	if err != nil || !bytes.Equal(b, want) {
		return nil, 0, recordError("tar header", "of member %q is not as the stream format has it", h.Name)
	}
	m.raw = b
	return m, int64(len(b)), nil
}

// padding returns the zeros that fill up the last block of n bytes.
func padding(n int64) int64 { return -n & (blockSize - 1) }

func eofUnexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
