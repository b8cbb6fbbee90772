// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package codec has the compression layers around the archive: zstd, lz4 and
// xz, each as a row of independent frames of at most [FrameSize] bytes of
// content, so that all cores can work, a reader can start at any frame, and the
// stock programs (zstd -dc, lz4 -dc, xz -dc) read the whole.
//
// Encoders produce frames; where frames begin and the pointer at the end of a
// stream are the archive writer's business. [Reader] finds the codec by its
// magic and gives the content back.
package codec

import (
	"fmt"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// FrameSize is the largest content of a frame, in bytes. The last frame of an
// xz stream, which holds the end record whole, is the one exception.
const FrameSize = 1 << 20

// Names of the codecs.
const (
	None = "none"
	Zstd = "zstd"
	LZ4  = "lz4"
	XZ   = "xz"
)

// Names returns the codecs in the order in which help texts show them.
func Names() []string { return []string{None, Zstd, LZ4, XZ} }

// Encoder turns content into frames. It is for one goroutine.
type Encoder interface {
	// Encode appends one whole frame with the content src to dst. src may be
	// longer than FrameSize.
	Encode(dst, src []byte) ([]byte, error)
}

// Spec is a codec and its level.
type Spec struct {
	Name  string // one of Names; empty is none
	Level int    // 0 is the codec's default
}

// Validate checks name and level.
func (s Spec) Validate() error {
	lo, hi, ok := s.levels()
	if !ok {
		return fmt.Errorf("codec %q: %w; choose one of %s", s.Name, disk.ErrUnsupported, strings.Join(Names(), ", "))
	}
	if s.Level != 0 && (s.Level < lo || s.Level > hi) {
		if hi == 0 {
			return fmt.Errorf("level %d: %w without a codec", s.Level, disk.ErrUnsupported)
		}
		return fmt.Errorf("level %d of codec %s: %w; levels are %d to %d", s.Level, s.Name, disk.ErrUnsupported, lo, hi)
	}
	return nil
}

func (s Spec) levels() (lo, hi int, ok bool) {
	switch s.Name {
	case None, "":
		return 0, 0, true
	case Zstd:
		return 1, 19, true
	case LZ4:
		return 1, 9, true
	case XZ:
		return 1, 9, true
	}
	return 0, 0, false
}

// Compressed reports if there is a codec at all.
func (s Spec) Compressed() bool { return s.Name != None && s.Name != "" }

// NewEncoder returns an encoder, or nil for none.
func (s Spec) NewEncoder() (Encoder, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	switch s.Name {
	case Zstd:
		return newZstdEncoder(s.Level)
	case LZ4:
		return newLZ4Encoder(s.Level)
	case XZ:
		return newXZEncoder(s.Level)
	}
	return nil, nil
}

// Bound returns the largest length of a frame with n bytes of content, for n
// up to FrameSize.
func Bound(n int) int {
	// zstd: 18 bytes of header and checksum, 3 per 128 KiB block. lz4: 19 of
	// header, 8 per block, 8 at the end; blocks that would grow are stored.
	// xz: 12+12 of header and footer, about 40 of block header, check and
	// index, 3 to 6 per 64 KiB chunk.
	return n + n>>12 + 256
}
