// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/vmstream/vmstream/disk"
)

// export is what a server has told about one.
type export struct {
	size      int64
	flags     uint16
	minBlock  int64 // alignment of requests, bytes, a power of two
	preferred int64
	maxBlock  int64             // longest read, bytes
	contexts  map[string]uint32 // the metadata contexts that the server has, and their ids
}

// Probe reports if an NBD server answers on a connection, and takes leave of it.
// The caller sets a deadline and closes the connection.
func Probe(rw io.ReadWriter) bool {
	flags, err := greet(rw)
	if err != nil {
		return false
	}
	o := &options{rw: rw}
	b := binary.BigEndian.AppendUint32(nil, uint32(flags&(flagFixedNewstyle|flagNoZeroes)))
	if _, err := rw.Write(b); err == nil { // a server that is left without a word complains in its log
		_ = o.ask(optAbort, "abort", nil, func(uint32, []byte) error { return nil })
		awaitEnd(rw)
	}
	return true
}

// maxParting bounds what a server can say when we have taken leave.
const maxParting = 1 << 20

// awaitEnd reads until the server has closed the connection. QEMU 7.2 can hang
// for good in nbd-server-stop while a connection that was left is still being
// dealt with.
func awaitEnd(r io.Reader) { _, _ = io.Copy(io.Discard, io.LimitReader(r, maxParting)) }

// greet reads the server's greeting and returns its flags.
func greet(r io.Reader) (uint16, error) {
	var hello [18]byte
	if _, err := io.ReadFull(r, hello[:]); err != nil {
		return 0, fmt.Errorf("nbd: greeting: %w", err)
	}
	flags := binary.BigEndian.Uint16(hello[16:])
	switch {
	case binary.BigEndian.Uint64(hello[:]) != magicInit:
		return 0, broken("greeting", "not an NBD server")
	case binary.BigEndian.Uint64(hello[8:]) != magicOption || flags&flagFixedNewstyle == 0:
		return 0, fmt.Errorf("nbd: the server speaks an old style of the protocol: %w", disk.ErrUnsupported)
	}
	return flags, nil
}

// negotiate goes from a new connection to the transmission phase of an export
// (proto.md "Handshake phase", fixed newstyle).
func negotiate(rw io.ReadWriter, name string, contexts []string) (*export, error) {
	if len(name) > maxName || len(contexts) > maxContexts {
		return nil, fmt.Errorf("nbd: a name of %d bytes, %d contexts: %w", len(name), len(contexts), disk.ErrUnsupported)
	}
	flags, err := greet(rw)
	if err != nil {
		return nil, err
	}
	if _, err := rw.Write(binary.BigEndian.AppendUint32(nil, uint32(flags&(flagFixedNewstyle|flagNoZeroes)))); err != nil {
		return nil, fmt.Errorf("nbd: handshake: %w", err)
	}
	o := &options{rw: rw, name: name}
	if err := o.structured(); err != nil {
		return nil, err
	}
	ids, err := o.setContexts(contexts)
	if err != nil {
		return nil, err
	}
	e, err := o.goExport()
	if err != nil {
		return nil, err
	}
	e.contexts = ids
	return e, nil
}

// options is the option haggling of one connection.
type options struct {
	rw   io.ReadWriter
	name string
}

// ask sends an option and hands each reply but the final ACK to take.
func (o *options) ask(option uint32, op string, data []byte, take func(kind uint32, b []byte) error) error {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, option)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	if _, err := o.rw.Write(append(b, data...)); err != nil {
		return fmt.Errorf("nbd: %s: %w", op, err)
	}
	for range maxOptionChunks {
		var h [20]byte
		if _, err := io.ReadFull(o.rw, h[:]); err != nil {
			return fmt.Errorf("nbd: %s: %w", op, midway(err))
		}
		kind, n := binary.BigEndian.Uint32(h[12:]), binary.BigEndian.Uint32(h[16:])
		if binary.BigEndian.Uint64(h[:]) != magicOptionReply || binary.BigEndian.Uint32(h[8:]) != option {
			return broken(op, "not a reply to this option")
		}
		if n > maxOptionReply {
			return broken(op, "a reply of %d bytes", n)
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(o.rw, payload); err != nil {
			return fmt.Errorf("nbd: %s: %w", op, midway(err))
		}
		switch {
		case kind == repAck:
			return nil
		case kind&repError != 0:
			return o.refused(kind, op, payload)
		}
		if err := take(kind, payload); err != nil {
			return err
		}
	}
	return broken(op, "more than %d replies", maxOptionChunks)
}

func (o *options) refused(kind uint32, op string, payload []byte) error {
	e := &Error{Op: op, Code: kind, Text: string(payload[:min(len(payload), maxErrorText)]), Offset: -1}
	switch kind {
	case repErrUnknown:
		return fmt.Errorf("%w: no export %q", e, o.name)
	case repErrTLS:
		return fmt.Errorf("%w: it wants TLS, which is %w", e, disk.ErrUnsupported)
	case repErrUnsup, repErrPolicy:
		return fmt.Errorf("%w: %w", e, disk.ErrUnsupported)
	}
	return e
}

func (o *options) structured() error {
	return o.ask(optStructuredReply, "structured replies", nil, func(kind uint32, _ []byte) error {
		return broken("structured replies", "a reply of type %d", kind)
	})
}

// setContexts asks for metadata contexts and returns those that the server has.
func (o *options) setContexts(contexts []string) (map[string]uint32, error) {
	const op = "metadata contexts"
	ids := map[string]uint32{}
	if len(contexts) == 0 {
		return ids, nil
	}
	b := appendString(nil, o.name)
	b = binary.BigEndian.AppendUint32(b, uint32(len(contexts)))
	wanted, known := map[string]bool{}, map[uint32]bool{}
	for _, c := range contexts {
		if len(c) > maxName {
			return nil, fmt.Errorf("nbd: a context of %d bytes: %w", len(c), disk.ErrUnsupported)
		}
		b = appendString(b, c)
		wanted[c] = true
	}
	err := o.ask(optSetMetaContext, op, b, func(kind uint32, p []byte) error {
		if kind != repMetaContext || len(p) < 4 {
			return broken(op, "a reply of type %d with %d bytes", kind, len(p))
		}
		id, name := binary.BigEndian.Uint32(p), string(p[4:])
		if _, twice := ids[name]; twice || known[id] || !wanted[name] {
			return broken(op, "%.100q with id %d was not asked for, or comes twice", name, id)
		}
		ids[name], known[id] = id, true
		return nil
	})
	return ids, err
}

// goExport asks for the export's size and limits and begins the transmission.
func (o *options) goExport() (*export, error) {
	const op = "export"
	b := appendString(nil, o.name)
	b = binary.BigEndian.AppendUint16(b, 1)
	b = binary.BigEndian.AppendUint16(b, infoBlockSize) // asking for it promises to keep to it
	e := &export{size: -1, minBlock: 1, preferred: 4096, maxBlock: maxRequest}
	err := o.ask(optGo, op, b, func(kind uint32, p []byte) error {
		if kind != repInfo || len(p) < 2 {
			return broken(op, "a reply of type %d with %d bytes", kind, len(p))
		}
		switch info := binary.BigEndian.Uint16(p); info {
		case infoExport:
			return e.setSize(p[2:])
		case infoBlockSize:
			return e.setBlockSize(p[2:])
		default:
			return nil
		}
	})
	switch {
	case err != nil:
		return nil, err
	case e.size < 0:
		return nil, broken(op, "its size is missing")
	case e.size%e.minBlock != 0:
		return nil, broken(op, "%d bytes are not a multiple of the smallest block, %d", e.size, e.minBlock)
	}
	return e, nil
}

func (e *export) setSize(p []byte) error {
	if len(p) != 10 {
		return broken("export size", "%d bytes instead of 10", len(p))
	}
	size := binary.BigEndian.Uint64(p)
	if size > disk.MaxSize {
		return fmt.Errorf("nbd: an export of %d bytes, the limit is %d: %w", size, int64(disk.MaxSize), disk.ErrUnsupported)
	}
	e.size, e.flags = int64(size), binary.BigEndian.Uint16(p[8:])
	if e.flags&transHasFlags == 0 {
		return broken("export flags", "0x%x lacks the bit that is always set", e.flags)
	}
	return nil
}

func (e *export) setBlockSize(p []byte) error {
	if len(p) != 12 {
		return broken("block size", "%d bytes instead of 12", len(p))
	}
	least, preferred, most := binary.BigEndian.Uint32(p), binary.BigEndian.Uint32(p[4:]), binary.BigEndian.Uint32(p[8:])
	if least == 0 || least&(least-1) != 0 || least > maxMinBlock || preferred < least || most < preferred || most != math.MaxUint32 && most%least != 0 {
		return broken("block size", "smallest %d, preferred %d, largest %d", least, preferred, most)
	}
	e.minBlock, e.preferred = int64(least), int64(preferred)
	e.maxBlock = max(min(int64(most), maxRequest)/e.minBlock*e.minBlock, e.minBlock)
	return nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// midway says that an end of the input here is none between messages.
func midway(err error) error {
	if err == io.EOF { //nolint:errorlint // io.ReadFull returns it bare
		return io.ErrUnexpectedEOF
	}
	return err
}
