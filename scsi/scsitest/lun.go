// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package scsitest has a LUN in memory that hosts share: thin provisioning, reservations
// of both kinds, unit attentions, and answers that are not as they should be. It is for
// tests of what uses package scsi, and does what real devices were seen to do.
package scsitest

import (
	"context"
	"encoding/binary"
	"os"
	"sync"

	"github.com/vmstream/vmstream/scsi"
)

// Options say what a LUN is.
type Options struct {
	Blocks     uint64 // 1024 if 0
	BlockBytes int    // 512 if 0
	Thin       bool   // LBPME, UNMAP and GET LBA STATUS
	Zero       bool   // LBPRZ: what is unmapped reads as zeros
	Ranges     int    // of one answer to GET LBA STATUS; all if 0

	Vendor, Model, Serial string
	NAA                   []byte // id of page 0x83
	Alerts                []int  // TapeAlert flags that are set
	NoPersistent          bool   // no persistent reservations
}

// LUN is a device in memory. It is safe for concurrent use.
type LUN struct {
	o Options

	mu        sync.Mutex
	data      map[uint64][]byte // mapped blocks
	holder    string            // by RESERVE(6)
	keys      map[string]scsi.Key
	owner     string // of the persistent reservation
	kind      scsi.PersistentType
	gen       uint32
	attention map[string][][2]byte // what is to be told to each host first
	faults    []*Fault
	commands  int
}

// Fault is an answer in place of the right one.
type Fault struct {
	Opcode byte
	Times  int                     // 0: always
	Result *scsi.Result            // in place of carrying it out
	Err    error                   // the command does not arrive
	Change func(answer []byte) int // of what the device answers; returns how much of it goes over
}

// New returns a LUN on which no block is mapped.
func New(o Options) *LUN {
	if o.Blocks == 0 {
		o.Blocks = 1024
	}
	if o.BlockBytes == 0 {
		o.BlockBytes = 512
	}
	return &LUN{o: o, data: map[uint64][]byte{}, keys: map[string]scsi.Key{}, attention: map[string][][2]byte{}}
}

// Device returns the LUN as a host sees it. The first command of a host is answered
// with a unit attention, as by real devices.
func (l *LUN) Device(host string) *scsi.Device {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tell(host, 0x29, 0x00)
	return scsi.NewDevice("lun@"+host, &port{l: l, host: host})
}

// Inject has faults happen.
func (l *LUN) Inject(f ...*Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = f
}

// Commands returns how many commands there have been.
func (l *LUN) Commands() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.commands
}

// Map gives blocks content.
func (l *LUN) Map(lba uint64, blocks int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range blocks {
		l.data[lba+uint64(i)] = make([]byte, l.o.BlockBytes)
	}
}

func (l *LUN) tell(host string, asc, ascq byte) {
	l.attention[host] = append(l.attention[host], [2]byte{asc, ascq})
}

// port is the LUN on the path of one host.
type port struct {
	l      *LUN
	host   string
	closed bool
}

func (p *port) Close() error {
	p.l.mu.Lock()
	defer p.l.mu.Unlock()
	if p.closed {
		return os.ErrClosed
	}
	p.closed = true
	return nil
}

func (p *port) Reset(_ context.Context, s scsi.Scope) error {
	p.l.mu.Lock()
	defer p.l.mu.Unlock()
	if p.closed {
		return os.ErrClosed
	}
	if s != scsi.ResetLUN {
		return scsi.ErrUnsupported
	}
	p.l.holder = ""
	for host := range p.l.attention {
		p.l.tell(host, 0x29, 0x03)
	}
	return nil
}

func (p *port) Execute(_ context.Context, c *scsi.Command) (scsi.Result, error) {
	l := p.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.closed {
		return scsi.Result{}, os.ErrClosed
	}
	l.commands++
	f := l.fault(c.CDB[0])
	switch {
	case f != nil && f.Err != nil:
		return scsi.Result{}, f.Err
	case f != nil && f.Result != nil:
		return *f.Result, nil
	}
	if told := l.attention[p.host]; len(told) > 0 && c.CDB[0] != 0x12 {
		l.attention[p.host] = told[1:]
		return sense(scsi.UnitAttention, told[0][0], told[0][1]), nil
	}
	if l.conflict(p.host, c) {
		return scsi.Result{Status: scsi.StatusReservationConflict}, nil
	}
	answer, r := l.carryOut(p.host, c)
	r.Moved = len(c.Out)
	if answer != nil {
		r.Moved = copy(c.In, answer)
		if f != nil && f.Change != nil {
			r.Moved = f.Change(c.In[:r.Moved])
		}
	}
	return r, nil
}

func (l *LUN) fault(opcode byte) *Fault {
	for i, f := range l.faults {
		if f.Opcode != opcode {
			continue
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				l.faults = append(l.faults[:i:i], l.faults[i+1:]...)
			}
		}
		return f
	}
	return nil
}

// Check returns the result of a command that the device refuses.
func Check(k scsi.SenseKey, asc, ascq byte) *scsi.Result {
	r := sense(k, asc, ascq)
	return &r
}

func sense(k scsi.SenseKey, asc, ascq byte) scsi.Result {
	b := make([]byte, 18)
	b[0], b[2], b[7], b[12], b[13] = 0x70, byte(k), 10, asc, ascq
	return scsi.Result{Status: scsi.StatusCheckCondition, Sense: b}
}

var (
	good          = scsi.Result{}
	unknown       = sense(scsi.IllegalRequest, 0x20, 0)
	badField      = sense(scsi.IllegalRequest, 0x24, 0)
	outOfRange    = sense(scsi.IllegalRequest, 0x21, 0)
	badParameters = sense(scsi.IllegalRequest, 0x26, 0)
)

// carryOut does what a command says. answer is what the device gives back.
func (l *LUN) carryOut(host string, c *scsi.Command) (answer []byte, r scsi.Result) {
	switch c.CDB[0] {
	case 0x00: // TEST UNIT READY
		return nil, good
	case 0x12:
		return l.inquiry(c.CDB)
	case 0x16: // RESERVE(6)
		l.holder = host
		return nil, good
	case 0x17: // RELEASE(6)
		if l.holder == host {
			l.holder = ""
		}
		return nil, good
	case 0x25:
		b := make([]byte, 8)
		binary.BigEndian.PutUint32(b, uint32(min(l.o.Blocks-1, 1<<32-1))) //nolint:gosec // bounded
		binary.BigEndian.PutUint32(b[4:], uint32(l.o.BlockBytes))         //nolint:gosec // small
		return b, good
	case 0x42:
		return nil, l.unmap(c.Out)
	case 0x4d:
		return l.logSense(c.CDB)
	case 0x5e:
		return l.persistentIn(c.CDB)
	case 0x5f:
		return nil, l.persistentOut(host, c)
	case 0x88, 0x8a:
		return l.move(c)
	case 0x9e:
		return l.serviceAction(c.CDB)
	}
	return nil, unknown
}
