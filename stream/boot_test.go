// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/stream/codec"
)

const bootMessage = "vmstream disk boots and writes"

// bootSector is a program that the BIOS starts from a disk: it writes itself to
// the sector lba, reads that back, prints a message to QEMU's debug console
// (port 0xe9) and ends QEMU (isa-debug-exit at port 0xf4).
func bootSector(lba uint64) []byte {
	b := make([]byte, 512)
	copy(b, []byte{
		0xfc,       // 00 cld
		0x31, 0xc0, // 01 xor ax, ax
		0x8e, 0xd8, // 03 mov ds, ax
		0x8e, 0xc0, // 05 mov es, ax
		0x8e, 0xd0, // 07 mov ss, ax
		0xbc, 0x00, 0x7c, // 09 mov sp, 0x7c00
		0xfb,             // 0c sti
		0xbe, 0x80, 0x7c, // 0d mov si, packet for writing
		0xb8, 0x00, 0x43, // 10 mov ax, 0x4300: extended write
		0xcd, 0x13, // 13 int 0x13; dl is the drive
		0x72, 0x17, // 15 jc bad
		0xbe, 0x90, 0x7c, // 17 mov si, packet for reading
		0xb4, 0x42, // 1a mov ah, 0x42: extended read
		0xcd, 0x13, // 1c int 0x13
		0x72, 0x0e, // 1e jc bad
		0xa1, 0xfe, 0x81, // 20 mov ax, [0x81fe]
		0x3b, 0x06, 0xfe, 0x7d, // 23 cmp ax, [0x7dfe]
		0x75, 0x05, // 27 jne bad
		0xbe, 0xc0, 0x7c, // 29 mov si, message
		0xeb, 0x03, // 2c jmp print
		0xbe, 0xf0, 0x7c, // 2e bad: mov si, complaint
		0xac,       // 31 print: lodsb
		0x84, 0xc0, // 32 test al, al
		0x74, 0x04, // 34 jz done
		0xe6, 0xe9, // 36 out 0xe9, al
		0xeb, 0xf7, // 38 jmp print
		0xb0, 0x10, // 3a done: mov al, 0x10
		0xe6, 0xf4, // 3c out 0xf4, al
		0xf4,       // 3e hlt
		0xeb, 0xfd, // 3f jmp to hlt
	})
	packet := func(at int, buffer uint16) {
		b[at], b[at+2] = 16, 1 // length, sectors
		binary.LittleEndian.PutUint16(b[at+4:], buffer)
		binary.LittleEndian.PutUint64(b[at+8:], lba)
	}
	packet(0x80, 0x7c00)
	packet(0x90, 0x8000)
	copy(b[0xc0:], bootMessage)
	copy(b[0xf0:], "disk error")
	b[510], b[511] = 0x55, 0xaa
	return b
}

// QEMU boots from an extracted disk as it stands, and the guest can write where
// an empty extent is.
func TestStockToolsBoot(t *testing.T) {
	testenv.Long(t)
	const mib, written = 1 << 20, 7<<20 + 512
	qemu := testenv.Tool(t, "qemu-system-x86_64")
	b := diskWith(12*mib, 6, 20, 170)
	copy(b, bootSector(written/512))
	vm := newStockVM(t, "vm", map[string][]byte{"vm": b})
	dir := t.TempDir()
	extractors["tar"](t, dir, vm.stream(t, testOptions(codec.None)))
	vm.check(t, dir)
	file := filepath.Join(dir, "vm", "vm.vmdk")

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, qemu, "-accel", "tcg", "-machine", "pc", "-m", "32", "-nodefaults", "-display", "none", "-no-reboot",
		"-debugcon", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-drive", "file="+file+",format=vmdk,if=ide")
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	// isa-debug-exit ends with twice the byte written, plus one.
	if !errors.As(err, &exit) || exit.ExitCode() != 0x10*2+1 || !strings.Contains(out.String(), bootMessage) {
		t.Fatalf("qemu: %v, printed %q, %q", err, out.String(), errs.String())
	}
	copy(b[written:], bootSector(written/512))
	if err := os.WriteFile(vm.raw[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := run(t, dir, nil, "qemu-img", "compare", "-f", "vmdk", "-F", "raw", file, vm.raw[0]); !strings.Contains(got, "identical") {
		t.Errorf("qemu-img compare: %s", got)
	}
	if got := run(t, dir, nil, "qemu-img", "check", "-f", "vmdk", file); !strings.Contains(got, "No errors") {
		t.Errorf("qemu-img check: %s", got)
	}
}
