// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vmstream/vmstream/disk"
)

// Options says which export is read and how.
type Options struct {
	// Export is the export's name; it may be empty.
	Export string
	// Bitmaps are names of QEMU's dirty bitmaps that are exported with the
	// disk. One that the server does not have is disk.ErrMismatch.
	Bitmaps []string
	// Connections is how many reads are served at a time: 4 if it is 0, and 1
	// if the server does not promise that several connections see the same.
	Connections int
	// Timeout is how long the server may send nothing while it is asked for
	// something: 2 minutes if it is 0.
	Timeout time.Duration
	// ConfirmZeros asks twice what is zero, one time after the other, and
	// takes for zero what is so both times. It is for the target of a
	// blockdev-backup job with sync=none: QEMU looks in the target first and
	// in the disk below after that, and between the two a guest may discard
	// what the job then saves. A query that begins later finds it saved.
	ConfirmZeros bool
	// Dial makes a connection.
	Dial func(ctx context.Context) (net.Conn, error)
}

// Image is an export as a disk. It does not change: the export must be read-only
// on the server and its content frozen.
type Image struct {
	exp     export
	name    string
	confirm bool
	conns   chan *conn // idle ones
	all     []*conn
	cache   map[uint32]*statusCache // by id of the context

	mu     sync.Mutex
	broken error // why no connection is of use any more
	closed chan struct{}
}

// DialUnix returns a function for [Options] that connects to a unix socket.
func DialUnix(path string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
}

// Open connects to a server. ctx is for that alone.
func Open(ctx context.Context, opt Options) (*Image, error) {
	if opt.Connections <= 0 {
		opt.Connections = 4
	}
	if opt.Timeout <= 0 {
		opt.Timeout = 2 * time.Minute
	}
	im := &Image{name: opt.Export, confirm: opt.ConfirmZeros, conns: make(chan *conn, opt.Connections), cache: map[uint32]*statusCache{}, closed: make(chan struct{})}
	contexts := []string{AllocationContext}
	for _, b := range opt.Bitmaps {
		contexts = append(contexts, BitmapContext(b))
	}
	for range opt.Connections {
		if err := im.connect(ctx, opt, contexts); err != nil {
			return nil, errors.Join(fmt.Errorf("export %q: %w", opt.Export, err), im.Close())
		}
		if im.exp.flags&transMultiConn == 0 {
			break
		}
	}
	for _, id := range im.exp.contexts {
		im.cache[id] = &statusCache{}
	}
	return im, nil
}

func (im *Image) connect(ctx context.Context, opt Options, contexts []string) error {
	nc, err := opt.Dial(ctx)
	if err != nil {
		return err
	}
	c, err := connect(ctx, nc, opt.Export, contexts, opt.Timeout)
	if err != nil {
		return err
	}
	im.all = append(im.all, c)
	im.conns <- c
	for _, name := range contexts[1:] {
		if _, ok := c.contexts[name]; !ok {
			return fmt.Errorf("nbd: the server does not export the bitmap %q: %w", name, disk.ErrMismatch)
		}
	}
	if len(im.all) == 1 {
		im.exp = *c.export
		return nil
	}
	if c.size != im.exp.size || c.minBlock != im.exp.minBlock || !sameContexts(c.contexts, im.exp.contexts) {
		return fmt.Errorf("nbd: the server describes the export in two ways: %w", disk.ErrMismatch)
	}
	return nil
}

func sameContexts(a, b map[string]uint32) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

// Size returns the size in bytes.
func (im *Image) Size() int64 { return im.exp.size }

// Close ends the connections; reads under way fail. It may be called twice.
func (im *Image) Close() error {
	im.mu.Lock()
	defer im.mu.Unlock()
	select {
	case <-im.closed:
		return nil
	default:
	}
	close(im.closed)
	var errs []error
	for _, c := range im.all {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}

// use runs do with an idle connection. A connection that failed ends all: what
// the server has in mind is not known any more.
func (im *Image) use(do func(*conn) (said, fatal error)) error {
	var c *conn
	select {
	case <-im.closed:
		return fmt.Errorf("nbd: %w", fs.ErrClosed)
	case c = <-im.conns:
	}
	defer func() { im.conns <- c }()
	im.mu.Lock()
	err := im.broken
	im.mu.Unlock()
	if err != nil {
		return err
	}
	said, fatal := do(c)
	if fatal == nil {
		return said
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.broken == nil {
		im.broken = fmt.Errorf("export %q: %w", im.name, fatal)
	}
	return im.broken
}

// pieceBytes is how much of a read one request asks for. Several are on their
// way at a time, so that the server reads one while it sends another; maxFlight
// is below what QEMU takes from a connection before it looks away (16).
const (
	pieceBytes = 256 << 10
	maxFlight  = 8
)

// ReadAt reads from the export.
func (im *Image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= im.exp.size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > im.exp.size-off {
		p, eof = p[:im.exp.size-off], io.EOF
	}
	mask := im.exp.minBlock - 1
	if off&mask != 0 || int64(len(p))&mask != 0 {
		return im.readUnaligned(p, off, eof)
	}
	if err := im.read(p, off); err != nil {
		return 0, err
	}
	return len(p), eof
}

// readUnaligned reads the blocks around p, in parts of bounded size.
func (im *Image) readUnaligned(p []byte, off int64, eof error) (int, error) {
	align := im.exp.minBlock
	buf := make([]byte, min(int64(len(p))+2*align, max(1<<20, 2*align))/align*align)
	for n := 0; n < len(p); {
		at := off + int64(n)
		start := at / align * align
		part := buf[:min(int64(len(buf)), im.exp.size-start, (at-start+int64(len(p)-n)+align-1)/align*align)]
		if err := im.read(part, start); err != nil {
			return n, err
		}
		n += copy(p[n:], part[at-start:])
	}
	return len(p), eof
}

// read reads whole blocks.
func (im *Image) read(p []byte, off int64) error {
	step := min(max(pieceBytes, im.exp.preferred), im.exp.maxBlock) / im.exp.minBlock * im.exp.minBlock
	return im.use(func(c *conn) (said, fatal error) {
		for len(p) > 0 {
			var reqs []*request
			for len(p) > 0 && len(reqs) < maxFlight {
				n := min(int64(len(p)), step)
				reqs = append(reqs, &request{kind: cmdRead, off: off, length: n, dst: p[:n:n]})
				p, off = p[n:], off+n
			}
			if said, fatal = c.do(reqs...); said != nil || fatal != nil {
				return said, fatal
			}
		}
		return nil, nil
	})
}

// Bitmaps returns the names of the bitmaps that can be asked for.
func (im *Image) Bitmaps() []string {
	const prefix = "qemu:dirty-bitmap:"
	var names []string
	for c := range im.exp.contexts {
		if c != AllocationContext {
			names = append(names, c[len(prefix):])
		}
	}
	slices.Sort(names)
	return names
}

// ignoreGone drops the error of saying goodbye to a server that has gone.
func ignoreGone(err error) error {
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ENOTCONN) {
		return nil
	}
	return err
}
