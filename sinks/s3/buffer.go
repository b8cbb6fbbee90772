// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// buffer holds one part, in memory or in a file without a name.
type buffer struct {
	capacity int64 // bytes
	length   int64
	crc      uint32 // CRC32C of what is in it
	memory   []byte
	file     *os.File
	free     func()
}

// fill takes bytes until the buffer is full and returns how many.
func (b *buffer) fill(p []byte) (int, error) {
	p = p[:min(int64(len(p)), b.capacity-b.length)]
	if b.file != nil {
		if _, err := b.file.WriteAt(p, b.length); err != nil {
			return 0, fmt.Errorf("s3: keeping a part in tmp-dir: %w", err)
		}
	} else {
		copy(b.memory[b.length:], p)
	}
	b.crc = crc32.Update(b.crc, castagnoli, p)
	b.length += int64(len(p))
	return len(p), nil
}

func (b *buffer) full() bool { return b.length == b.capacity }

// open returns the content for one request. What comes to stand in the buffer later
// is not to be read through it, see [body].
func (b *buffer) open() *body {
	if b.file != nil {
		return &body{r: io.NewSectionReader(b.file, 0, b.length)}
	}
	return &body{r: bytes.NewReader(b.memory[:b.length])}
}

var errRevoked = errors.New("the request is over")

// body is that of a request. A transport may go on reading it after the answer has
// come; revoke ends that.
type body struct {
	mu sync.Mutex
	r  io.ReadSeeker // nil when it is over
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.r == nil {
		return 0, errRevoked
	}
	return b.r.Read(p)
}

func (b *body) Seek(offset int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.r == nil {
		return 0, errRevoked
	}
	return b.r.Seek(offset, whence)
}

func (b *body) revoke() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.r = nil
}

// pool hands out buffers within the bounds of a config.
type pool struct {
	config *config
	mu     sync.Mutex
	count  int   // of buffers that are handed out
	bytes  int64 // of memory that they have
	spare  []*buffer
	freed  chan struct{} // has an element when something was given back
}

func newPool(c *config) *pool { return &pool{config: c, freed: make(chan struct{}, 1)} }

// get returns an empty buffer for a part of size bytes, and waits for one.
func (p *pool) get(ctx context.Context, size int64) (*buffer, error) {
	for {
		b, err := p.take(size)
		if b != nil || err != nil {
			return b, err
		}
		select {
		case <-p.freed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// take returns nil if there is no room.
func (p *pool) take(size int64) (*buffer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	most, inFile := p.config.room(size)
	p.drop(size)
	if p.count >= most || !inFile && p.bytes+size > p.config.memoryBytes {
		return nil, nil
	}
	var b *buffer
	if len(p.spare) > 0 {
		b, p.spare = p.spare[0], p.spare[1:]
		b.length, b.crc = 0, 0
	} else {
		var err error
		if b, err = p.config.newBuffer(size, inFile); err != nil {
			return nil, err
		}
	}
	p.count++
	p.bytes += int64(len(b.memory))
	return b, nil
}

// drop frees spare buffers of other sizes than size.
func (p *pool) drop(size int64) {
	kept := p.spare[:0]
	for _, b := range p.spare {
		if b.capacity == size {
			kept = append(kept, b)
			continue
		}
		b.free()
	}
	p.spare = kept
}

// put gives a buffer back.
func (p *pool) put(b *buffer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count--
	p.bytes -= int64(len(b.memory))
	p.spare = append(p.spare, b)
	select {
	case p.freed <- struct{}{}:
	default:
	}
}

// close frees what was given back.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(-1)
}

func (c *config) newBuffer(size int64, inFile bool) (*buffer, error) {
	b := &buffer{capacity: size}
	if !inFile {
		memory, free, err := allocate(size)
		if err != nil {
			return nil, fmt.Errorf("s3: memory for a part of %d bytes: %w", size, err)
		}
		b.memory, b.free = memory, free
		return b, nil
	}
	f, err := os.CreateTemp(c.tmpDir, "vmstream-s3-*")
	if err != nil {
		return nil, fmt.Errorf("s3: a file for a part of %d bytes: %w; set tmp-dir", size, err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	b.file, b.free = f, func() { _ = f.Close() }
	return b, nil
}
