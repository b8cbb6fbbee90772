// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"
)

// conn is a connection in the transmission phase, for one goroutine.
type conn struct {
	nc      net.Conn
	timeout time.Duration
	*export
	rd     reader
	cookie uint64
	buf    []byte
}

// connect negotiates on a new connection and takes it over.
func connect(ctx context.Context, nc net.Conn, name string, contexts []string, timeout time.Duration) (*conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	err := nc.SetDeadline(time.Now().Add(timeout))
	var e *export
	if err == nil {
		e, err = negotiate(nc, name, contexts)
	}
	if !stop() && err != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	c := &conn{nc: nc, timeout: timeout, export: e}
	c.rd = reader{r: bufio.NewReaderSize(progress{c}, 16<<10), pending: map[uint64]*request{}}
	return c, nil
}

// progress extends the deadline whenever bytes come: the time-out is for a
// server that sends nothing.
type progress struct{ c *conn }

func (p progress) Read(b []byte) (int, error) {
	if err := p.c.nc.SetReadDeadline(time.Now().Add(p.c.timeout)); err != nil {
		return 0, err
	}
	return p.c.nc.Read(b)
}

// do sends requests, all at once, and waits for their replies. The second
// error is of the connection, which is of no use then; the first is what the
// server says of a request.
func (c *conn) do(reqs ...*request) (said, fatal error) {
	c.buf = c.buf[:0]
	for _, r := range reqs {
		c.cookie++
		c.rd.pending[c.cookie] = r
		c.buf = appendRequest(c.buf, r.kind, c.cookie, r.off, r.length)
	}
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return nil, err
	}
	if _, err := c.nc.Write(c.buf); err != nil {
		return nil, err
	}
	for len(c.rd.pending) > 0 {
		if err := c.rd.next(); err != nil {
			return nil, err
		}
	}
	for _, r := range reqs {
		if r.err != nil {
			return r.err, nil
		}
	}
	return nil, nil
}

func appendRequest(b []byte, kind uint16, cookie uint64, off, length int64) []byte {
	b = binary.BigEndian.AppendUint32(b, magicRequest)
	b = binary.BigEndian.AppendUint16(b, 0) // flags
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	return binary.BigEndian.AppendUint32(b, uint32(length))
}

// partingTime is how long a server may take to close a connection.
const partingTime = time.Second

// close says goodbye, which has no reply, and waits for the server to go.
func (c *conn) close() error {
	_ = c.nc.SetDeadline(time.Now().Add(partingTime))
	_, err := c.nc.Write(appendRequest(nil, cmdDisc, 0, 0, 0))
	if err == nil {
		awaitEnd(c.nc)
	}
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		err = nil
	}
	return errors.Join(ignoreGone(err), c.nc.Close())
}
