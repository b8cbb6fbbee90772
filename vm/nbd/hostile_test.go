// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
)

// be joins integers, big-endian and as wide as their types, and bytes.
func be(parts ...any) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		if s, ok := p.(string); ok {
			p = []byte(s)
		}
		_ = binary.Write(&b, binary.BigEndian, p)
	}
	return b.Bytes()
}

func optReply(option, kind uint32, payload []byte) []byte {
	return be(uint64(magicOptionReply), option, kind, uint32(len(payload)), payload)
}

func chunk(flags, kind uint16, cookie uint64, payload []byte) []byte {
	return be(uint32(magicStructured), flags, kind, cookie, uint32(len(payload)), payload)
}

const testSize = 1 << 20

// greetingOf is what a good server says; the parts are for tests to replace.
func goodHandshake() [][]byte {
	return [][]byte{
		be(uint64(magicInit), uint64(magicOption), uint16(3)),
		optReply(optStructuredReply, repAck, nil),
		append(optReply(optSetMetaContext, repMetaContext, be(uint32(5), AllocationContext)), optReply(optSetMetaContext, repAck, nil)...),
		bytes.Join([][]byte{
			optReply(optGo, repInfo, be(uint16(infoExport), uint64(testSize), uint16(transHasFlags))),
			optReply(optGo, repInfo, be(uint16(infoBlockSize), uint32(512), uint32(4096), uint32(1<<20))),
			optReply(optGo, repAck, nil),
		}, nil),
	}
}

// script is a connection whose peer has said everything already.
type script struct {
	net.Conn
	io.Reader
}

func (s script) Read(b []byte) (int, error)       { return s.Reader.Read(b) }
func (s script) Write(b []byte) (int, error)      { return len(b), nil }
func (s script) Close() error                     { return nil }
func (s script) SetDeadline(time.Time) error      { return nil }
func (s script) SetReadDeadline(time.Time) error  { return nil }
func (s script) SetWriteDeadline(time.Time) error { return nil }

func open(t *testing.T, said []byte) (*Image, error) {
	t.Helper()
	return Open(t.Context(), Options{Connections: 1, Dial: func(context.Context) (net.Conn, error) {
		return script{Reader: bytes.NewReader(said)}, nil
	}})
}

func TestHandshakeRefuses(t *testing.T) {
	ack := optReply(optGo, repAck, nil)
	info := func(parts ...any) []byte { return optReply(optGo, repInfo, be(parts...)) }
	for _, tt := range []struct {
		name string
		part int
		say  []byte
		want error
	}{
		{"not NBD", 0, []byte("SSH-2.0-OpenSSH_9.2\r\n"), disk.ErrCorrupt},
		{"oldstyle", 0, be(uint64(magicInit), uint64(0x00420281861253), uint16(3)), disk.ErrUnsupported},
		{"not fixed", 0, be(uint64(magicInit), uint64(magicOption), uint16(0)), disk.ErrUnsupported},
		{"no structured replies", 1, optReply(optStructuredReply, repErrUnsup, nil), disk.ErrUnsupported},
		{"other option", 1, optReply(optGo, repAck, nil), disk.ErrCorrupt},
		{"long reply", 1, be(uint64(magicOptionReply), uint32(optStructuredReply), uint32(repAck), uint32(1<<31)), disk.ErrCorrupt},
		{"context not asked for", 2, optReply(optSetMetaContext, repMetaContext, be(uint32(1), "other")), disk.ErrCorrupt},
		{"context twice", 2, bytes.Repeat(optReply(optSetMetaContext, repMetaContext, be(uint32(1), AllocationContext)), 2), disk.ErrCorrupt},
		{"short context", 2, optReply(optSetMetaContext, repMetaContext, be(uint16(1))), disk.ErrCorrupt},
		{"no size", 3, ack, disk.ErrCorrupt},
		{"TLS", 3, optReply(optGo, repErrTLS, nil), disk.ErrUnsupported},
		{"huge", 3, info(uint16(infoExport), uint64(1<<63), uint16(1)), disk.ErrUnsupported},
		{"no flags", 3, info(uint16(infoExport), uint64(512), uint16(0)), disk.ErrCorrupt},
		{"short size", 3, info(uint16(infoExport), uint32(512)), disk.ErrCorrupt},
		{"block size 0", 3, info(uint16(infoBlockSize), uint32(0), uint32(4096), uint32(1<<20)), disk.ErrCorrupt},
		{"block size 3", 3, info(uint16(infoBlockSize), uint32(3), uint32(4096), uint32(1<<20)), disk.ErrCorrupt},
		{"block size large", 3, info(uint16(infoBlockSize), uint32(1<<20), uint32(1<<20), uint32(1<<20)), disk.ErrCorrupt},
		{"block size order", 3, info(uint16(infoBlockSize), uint32(512), uint32(4096), uint32(512)), disk.ErrCorrupt},
		{"odd size", 3, bytes.Join([][]byte{info(uint16(infoExport), uint64(513), uint16(1)), info(uint16(infoBlockSize), uint32(512), uint32(4096), uint32(1<<20)), ack}, nil), disk.ErrCorrupt},
		{"endless", 3, bytes.Repeat(info(uint16(9)), 1000), disk.ErrCorrupt},
		{"cut", 3, ack[:7], io.ErrUnexpectedEOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parts := append(goodHandshake()[:tt.part], tt.say)
			if im, err := open(t, bytes.Join(parts, nil)); !errors.Is(err, tt.want) {
				t.Errorf("got %v, %v, want %v", im, err, tt.want)
			}
		})
	}
}

func TestRepliesRefused(t *testing.T) {
	data := func(off uint64, n int) []byte {
		return chunk(0, replyOffsetData, 1, be(off, make([]byte, n)))
	}
	hole := func(off uint64, n uint32) []byte { return chunk(0, replyOffsetHole, 1, be(off, n)) }
	done := chunk(replyFlagDone, replyNone, 1, nil)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for _, tt := range []struct {
		name string
		say  []byte
		want error // of a read of 4096 bytes at 8192
	}{
		{"data and hole", join(hole(10240, 2048), data(8192, 2048), done), nil},
		{"nothing", done, disk.ErrCorrupt},
		{"a part is missing", join(data(8192, 2048), done), disk.ErrCorrupt},
		{"the middle is missing", join(data(8192, 1024), hole(11264, 1024), done), disk.ErrCorrupt},
		{"overlap", join(data(8192, 4096), hole(8192, 1), done), disk.ErrCorrupt},
		{"overlap that adds up", join(data(8192, 2048), data(8192, 2048), done), disk.ErrCorrupt},
		{"before", join(data(8191, 2), done), disk.ErrCorrupt},
		{"behind", join(hole(12288, 1), done), disk.ErrCorrupt},
		{"too long", join(hole(12287, 2), done), disk.ErrCorrupt},
		{"wraps", join(hole(1<<64-1, 1<<31), done), disk.ErrCorrupt},
		{"empty hole", join(hole(8192, 0), done), disk.ErrCorrupt},
		{"empty data", chunk(0, replyOffsetData, 1, be(uint64(8192))), disk.ErrCorrupt},
		{"other cookie", chunk(replyFlagDone, replyNone, 2, nil), disk.ErrCorrupt},
		{"simple", be(uint32(magicSimple), uint32(0), uint64(1), make([]byte, 4096)), disk.ErrCorrupt},
		{"no magic", make([]byte, 40), disk.ErrCorrupt},
		{"status", chunk(0, replyBlockStatus, 1, be(uint32(5), uint32(4096), uint32(0))), disk.ErrCorrupt},
		{"unknown type", chunk(0, 99, 1, nil), disk.ErrCorrupt},
		{"endless", bytes.Repeat(chunk(0, replyNone, 1, nil), 10000), disk.ErrCorrupt},
		{"long error", be(uint32(magicStructured), uint16(1), uint16(replyError|1), uint64(1), uint32(1<<31)), disk.ErrCorrupt},
		{"text beyond error", chunk(1, replyError|1, 1, be(uint32(5), uint16(9), "x")), disk.ErrCorrupt},
		{"error without number", chunk(1, replyError|1, 1, be(uint32(0), uint16(0))), disk.ErrCorrupt},
		{"cut", data(8192, 4096)[:100], io.ErrUnexpectedEOF},
		{"closed", nil, io.ErrUnexpectedEOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			im, err := open(t, join(append(goodHandshake(), tt.say)...))
			if err != nil {
				t.Fatal(err)
			}
			p := bytes.Repeat([]byte{1}, 4096)
			n, err := im.ReadAt(p, 8192)
			if !errors.Is(err, tt.want) || (err == nil) != (n == 4096) {
				t.Errorf("got %d, %v, want %v", n, err, tt.want)
			}
			if tt.want != nil { // nothing is read from it any more
				if _, again := im.ReadAt(p, 0); !errors.Is(again, tt.want) {
					t.Errorf("the next read: %v", again)
				}
			}
		})
	}
}

// TestServerError is about an error of a read: the connection is good still.
func TestServerError(t *testing.T) {
	say := bytes.Join(append(goodHandshake(),
		chunk(0, replyErrorOffset, 1, be(uint32(5), uint16(3), "a\nb", uint64(8704))), chunk(replyFlagDone, replyNone, 1, nil),
		chunk(replyFlagDone, replyOffsetHole, 2, be(uint64(0), uint32(512)))), nil)
	im, err := open(t, say)
	if err != nil {
		t.Fatal(err)
	}
	var e *Error
	if _, err := im.ReadAt(make([]byte, 4096), 8192); !errors.As(err, &e) || e.Code != 5 || e.Offset != 8704 || !strings.HasSuffix(err.Error(), "read at 0x2200: the server reports EIO: a?b") {
		t.Errorf("got %v", err)
	}
	if _, err := im.ReadAt(make([]byte, 512), 0); err != nil {
		t.Errorf("the next read: %v", err)
	}
}

func TestStatusRefused(t *testing.T) {
	status := func(id uint32, rest ...any) []byte {
		return chunk(replyFlagDone, replyBlockStatus, 1, append(be(id), be(rest...)...))
	}
	for _, tt := range []struct {
		name string
		say  []byte
		want error
	}{
		{"beyond the end", status(5, uint32(512), uint32(3), uint32(1<<31), uint32(1)), nil},
		{"other context", status(6, uint32(512), uint32(3)), disk.ErrCorrupt},
		{"no context", chunk(replyFlagDone, replyNone, 1, nil), disk.ErrCorrupt},
		{"no extent", status(5), disk.ErrCorrupt},
		{"empty extent", status(5, uint32(0), uint32(3)), disk.ErrCorrupt},
		{"less than a block", append(status(5, uint32(10), uint32(3)), chunk(replyFlagDone, replyBlockStatus, 2, be(uint32(5), uint32(10), uint32(3)))...), disk.ErrCorrupt},
		{"half an extent", status(5, uint32(512), uint32(3), uint32(1)), disk.ErrCorrupt},
		{"twice", append(chunk(0, replyBlockStatus, 1, be(uint32(5), uint32(512), uint32(3))), status(5, uint32(512), uint32(3))...), disk.ErrCorrupt},
	} {
		t.Run(tt.name, func(t *testing.T) {
			im, err := open(t, bytes.Join(append(goodHandshake(), tt.say), nil))
			if err != nil {
				t.Fatal(err)
			}
			var runs []disk.Run
			for r, e := range im.Runs(0, testSize) {
				if err = e; e == nil {
					runs = append(runs, r)
				}
			}
			if !errors.Is(err, tt.want) || err == nil && (len(runs) != 2 || runs[0] != disk.Run{Length: 512, Kind: disk.Zero} || runs[1] != disk.Run{Offset: 512, Length: testSize - 512, Kind: disk.Data}) {
				t.Errorf("got %v, %v, want %v", runs, err, tt.want)
			}
		})
	}
}

func TestBothZero(t *testing.T) {
	make1 := func(s string) window {
		var w window
		for _, c := range s {
			w.add(1, map[rune]disk.Kind{'0': disk.Zero, 'd': disk.Data}[c])
		}
		return w
	}
	for _, tt := range [][3]string{{"000", "000", "000"}, {"0d0d", "00dd", "0ddd"}, {"0000", "00", "00"}, {"d", "0000", "d"}, {"dd00d", "0d0d0", "dd0dd"}} {
		got, want := bothZero(make1(tt[0]), make1(tt[1])), make1(tt[2])
		if got.end != want.end || len(got.runs) != len(want.runs) {
			t.Fatalf("%v: got %+v", tt, got)
		}
		for i := range got.runs {
			if got.runs[i] != want.runs[i] {
				t.Errorf("%v: got %+v", tt, got)
			}
		}
	}
}

// FuzzServer has a server say anything, from its greeting on.
func FuzzServer(f *testing.F) {
	add := func(say ...[]byte) { f.Add(bytes.Join(append(goodHandshake(), say...), nil)) }
	add(chunk(replyFlagDone, replyBlockStatus, 1, be(uint32(5), uint32(testSize), uint32(3))), chunk(replyFlagDone, replyOffsetHole, 2, be(uint64(0), uint32(4096))))
	add(chunk(replyFlagDone, replyBlockStatus, 1, be(uint32(5), uint32(512), uint32(0))), chunk(replyFlagDone, replyOffsetData, 2, be(uint64(0), make([]byte, 4096))))
	add(chunk(replyFlagDone, replyErrorOffset, 1, be(uint32(5), uint16(0), uint64(0))))
	f.Fuzz(func(t *testing.T, say []byte) {
		im, err := open(t, say)
		if err != nil {
			return
		}
		end := int64(0)
		for r, err := range im.Runs(0, 1<<30) {
			if err != nil {
				break
			}
			if r.Offset != end || r.Length <= 0 || r.End() > im.Size() {
				t.Fatalf("run %+v behind %d", r, end)
			}
			end = r.End()
		}
		n, err := im.ReadAt(make([]byte, 4096), 0)
		if err == nil && n != 4096 {
			t.Fatalf("%d bytes without an error", n)
		}
		_, _ = im.ReadAt(make([]byte, 1000), 100)
	})
}
