// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bufio"
	"encoding/binary"
	"hash/adler32"
	"io"
	"os"
	"testing"
)

// RealVMFS writes the image of the VMFS volume of the corpus that an ESX host has made to
// w, where zeros are to be holes, and returns its length. The README of the corpus describes
// how it is packed.
func RealVMFS(tb testing.TB, w io.WriterAt) (sizeBytes int64) {
	tb.Helper()
	f, err := os.Open(Corpus(tb, "vmfs/vmfs3-331-real.vmfsimg"))
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	r := bufio.NewReader(f)
	magic := make([]byte, 8)
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != "VMFSIMG\x02" {
		tb.Fatalf("%q is not such an image: %v", magic, err)
	}
	sum := adler32.New()
	block, zeros := make([]byte, 512), make([]byte, 512)
	for {
		op, err := r.ReadByte()
		if err == io.EOF {
			return sizeBytes
		}
		var n uint64
		if err == nil && op != 0x7f {
			n, err = binary.ReadUvarint(r)
		}
		switch {
		case err != nil:
			tb.Fatal(err)
		case op == 0 && n <= 128:
			clear(block)
			if _, err := io.ReadFull(r, block[:n*4]); err != nil {
				tb.Fatal(err)
			}
			if _, err := w.WriteAt(block, sizeBytes); err != nil {
				tb.Fatal(err)
			}
			sizeBytes += 512
			sum.Write(block)
		case op == 1:
			for range n + 1 {
				sum.Write(zeros)
			}
			sizeBytes += 512 * int64(n+1)
		case op == 0x7f:
			var want [4]byte
			if _, err := io.ReadFull(r, want[:]); err != nil || binary.LittleEndian.Uint32(want[:]) != sum.Sum32() {
				tb.Fatalf("checksum %08x, want %x: %v", sum.Sum32(), want, err)
			}
		default:
			tb.Fatalf("opcode %d, length %d", op, n)
		}
	}
}
