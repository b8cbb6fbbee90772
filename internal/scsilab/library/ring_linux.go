// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package library

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device is what answers commands.
type Device interface {
	execute(cdb, in []byte) result
}

// oneAtATime is held during each command of the library.
var oneAtATime sync.Mutex

// Serve answers the commands for the TCMU device of a name, which has been enabled
// with dev_config=vmstream/NAME, for as long as the program runs.
func Serve(name string, d Device) error {
	path, size, err := find(name)
	if err != nil {
		return err
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	m, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	r := &ring{fd: fd, m: m, device: d}
	r.commands, r.bytes = r.u32(4), r.u32(8)
	go r.serve()
	return nil
}

// find waits for the UIO device, and returns its node and the length of its mapping.
func find(name string) (string, int, error) {
	for range 200 {
		names, err := filepath.Glob("/sys/class/uio/uio*/name")
		if err != nil {
			return "", 0, err
		}
		for _, f := range names {
			b, err := os.ReadFile(f)
			if err != nil || !strings.HasSuffix(strings.TrimSpace(string(b)), "vmstream/"+name) {
				continue
			}
			dir := filepath.Dir(f)
			b, err = os.ReadFile(filepath.Join(dir, "maps/map0/size"))
			if err != nil {
				return "", 0, err
			}
			n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 0, 64)
			return "/dev/" + filepath.Base(dir), int(n), err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return "", 0, errors.New("no TCMU device " + name)
}

// ring is the mailbox of linux/target_core_user.h: version and flags (u16 each), then
// as u32 the place and length of the ring and its head; at 64 its tail. An entry is
// length and operation (u32), id (u16), flags of the kernel and ours (u8), the number
// of iovecs (u32); at 24 (u64) the place of the CDB; at 48 the iovecs, whose bases are
// places in the mapping. The answer has the status at 8, how much was read at 12 (u32),
// and sense data at 16.
type ring struct {
	fd              int
	m               []byte
	commands, bytes uint32
	device          Device
}

const (
	ringHead = 12
	ringTail = 64

	opCommand = 1
	hasLength = 2 // flag: the length at 12 counts
	senseRoom = 96

	checkCondition = 2
)

func (r *ring) u32(at uint32) uint32 { return binary.NativeEndian.Uint32(r.m[at:]) }
func (r *ring) u64(at uint32) uint64 { return binary.NativeEndian.Uint64(r.m[at:]) }

// shared is a word that the kernel changes, too.
func (r *ring) shared(at int) *uint32 { return (*uint32)(unsafe.Pointer(&r.m[at])) }

func (r *ring) serve() {
	event := make([]byte, 4)
	for {
		for {
			tail := *r.shared(ringTail)
			if atomic.LoadUint32(r.shared(ringHead)) == tail {
				break
			}
			entry := r.commands + tail
			header := r.u32(entry)
			if header&7 == opCommand {
				r.answer(entry)
			}
			atomic.StoreUint32(r.shared(ringTail), (tail+header&^7)%r.bytes)
		}
		_, _ = unix.Write(r.fd, event) // answers are there
		if _, err := unix.Read(r.fd, event); err != nil && !errors.Is(err, unix.EINTR) {
			fmt.Fprintln(os.Stderr, "library: ring:", err)
			return
		}
	}
}

// sends reports if the initiator sends data with a command: WRITE, MODE SELECT.
func sends(op byte) bool { return op == 0x0a || op == 0x15 }

// length of the CDB, from the command's group.
func length(op byte) int { return []int{6, 10, 10, 16, 16, 12, 16, 16}[op>>5] }

func (r *ring) answer(entry uint32) {
	at := r.u64(entry + 24)
	op := r.m[at]
	cdb := append([]byte(nil), r.m[at:at+uint64(length(op))]...) //nolint:gosec // 6 to 16
	var vectors [][]byte
	var in []byte
	room := 0
	for i := range r.u32(entry + 8) {
		base, n := r.u64(entry+48+16*i), r.u64(entry+56+16*i)
		vectors = append(vectors, r.m[base:base+n])
		room += int(n) //nolint:gosec // in the mapping
		if sends(op) {
			in = append(in, r.m[base:base+n]...)
		}
	}
	oneAtATime.Lock()
	res := r.device.execute(cdb, in)
	oneAtATime.Unlock()
	flags, read := byte(0), 0
	if !sends(op) {
		for _, v := range vectors {
			n := copy(v, res.data[read:])
			read += n
		}
		if room > 0 && (res.short || read < room) {
			flags = hasLength
		}
	}
	e := r.m[entry:]
	e[7], e[8] = flags, 0
	if res.sense != nil {
		e[8] = checkCondition
	}
	binary.NativeEndian.PutUint32(e[12:], uint32(read)) //nolint:gosec // in the mapping
	clear(e[16 : 16+senseRoom])
	copy(e[16:16+senseRoom], res.sense)
}
