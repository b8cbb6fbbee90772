// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package guestlab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// progress is what a guest has told on its serial port.
type progress struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced when there is news
	last    uint64        // durable
	records []seen
	trims   int    // of free space, that have ended
	failed  string // what the guest said when it gave up
	ended   bool
}

// seen is when a record was told of.
type seen struct {
	host  time.Time
	guest time.Duration // of the guest's monotonic clock
}

// Stall is the longest time between two records, by two clocks. The guest's
// stands still while QEMU has stopped the machine.
type Stall struct {
	Host, Guest time.Duration
	Records     int // that came in the time that was looked at
}

func (s Stall) String() string {
	return fmt.Sprintf("longest stall %.0f ms (%.0f ms by the guest's clock) in %d records",
		s.Host.Seconds()*1e3, s.Guest.Seconds()*1e3, s.Records)
}

// read takes in what a guest says until the end of its output.
func (p *progress) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		p.line(strings.TrimSpace(lines.Text()), time.Now())
	}
	return lines.Err()
}

func (p *progress) line(line string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var number uint64
	var nanos int64
	switch reason, failed := strings.CutPrefix(line, "fail "); {
	case failed:
		p.failed = reason
	case strings.HasPrefix(line, "rec "):
		if n, err := fmt.Sscanf(line, "rec %d %d", &number, &nanos); n != 2 || err != nil {
			p.failed = fmt.Sprintf("line %q after record %d", line, p.last)
			break
		}
		if p.last != 0 && number != p.last+1 {
			p.failed = fmt.Sprintf("record %d after %d", number, p.last)
		}
		p.last = number
		p.records = append(p.records, seen{host: now, guest: time.Duration(nanos)})
	case strings.HasPrefix(line, "trim "):
		p.trims++
	case strings.HasPrefix(line, "boot "), strings.HasPrefix(line, "start "):
	default:
		p.failed = fmt.Sprintf("line %q after record %d", line, p.last)
	}
	p.wake()
}

func (p *progress) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// end notes that there will be no more.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.wake()
}

// waitNew waits until a record with this number is durable.
func (p *progress) waitNew(number uint64, timeout time.Duration) error {
	return p.wait(func() bool { return p.last >= number }, timeout)
}

// wait waits until a condition is met, which is looked at with p.mu held.
func (p *progress) wait(met func() bool, timeout time.Duration) error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		p.mu.Lock()
		done, last, failed, ended, changed := met(), p.last, p.failed, p.ended, p.changed
		p.mu.Unlock()
		switch {
		case failed != "":
			return errors.New("the guest failed: " + failed)
		case done:
			return nil
		case ended:
			return fmt.Errorf("QEMU has ended after record %d", last)
		}
		select {
		case <-changed:
		case <-timer.C:
			return fmt.Errorf("not within %v; the last record is %d", timeout, last)
		}
	}
}

// LastDurable returns the number of the last record that the guest has told of,
// 0 if there is none: this and all before it are durable on all disks.
func (p *progress) LastDurable() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// StallSince returns the longest time between two records since a moment, the
// time that now passes since the last one included.
func (p *progress) StallSince(since time.Time) Stall {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Stall{}
	before := since
	for i, r := range p.records {
		if r.host.Before(since) {
			before = r.host
			continue
		}
		s.Records++
		s.Host = max(s.Host, r.host.Sub(before))
		if i > 0 {
			s.Guest = max(s.Guest, r.guest-p.records[i-1].guest)
		}
		before = r.host
	}
	s.Host = max(s.Host, time.Since(before))
	return s
}
