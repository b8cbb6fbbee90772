// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/vmstream/vmstream/stream"
)

const (
	terminalInterval = 500 * time.Millisecond
	jsonInterval     = 5 * time.Second
)

// Progress shows how far counters are: on a terminal all the time, as events
// with --json, and anywhere when the process gets SIGUSR1.
type Progress struct {
	c     *Console
	n     *stream.Counters
	start time.Time
	stop  chan struct{}
	asked chan os.Signal
	done  sync.WaitGroup
}

// Watch starts showing n. Stop must be called.
func (c *Console) Watch(n *stream.Counters) *Progress {
	p := &Progress{c: c, n: n, start: c.now(), stop: make(chan struct{}), asked: make(chan os.Signal, 1)}
	if statusSignal != nil { // here, so that it is caught from now on
		signal.Notify(p.asked, statusSignal)
	}
	p.done.Go(p.run)
	return p
}

// Stop ends the progress line and returns how long it took.
func (p *Progress) Stop() time.Duration {
	close(p.stop)
	p.done.Wait()
	p.c.clearStatus()
	return p.c.now().Sub(p.start)
}

func (p *Progress) run() {
	defer signal.Stop(p.asked)
	var tick <-chan time.Time
	switch {
	case p.c.JSON:
		t := time.NewTicker(jsonInterval)
		defer t.Stop()
		tick = t.C
	case p.c.terminal && !p.c.Quiet:
		t := time.NewTicker(terminalInterval)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-p.stop:
			return
		case <-p.asked:
			p.show(true)
		case <-tick:
			p.show(false)
		}
	}
}

// show prints the state; asked says that it was asked for and so gets a line
// of its own.
func (p *Progress) show(asked bool) {
	done, total, zero := p.n.Done.Load(), p.n.Total.Load(), p.n.Zero.Load()
	elapsed := p.c.now().Sub(p.start)
	rate := float64(done) / max(elapsed.Seconds(), 0.001)
	eta := time.Duration(-1)
	if rate > 0 && total >= done {
		eta = time.Duration(float64(total-done) / rate * float64(time.Second))
	}
	if p.c.JSON {
		e := Event{"done_bytes": done, "total_bytes": total, "zero_bytes": zero, "stream_bytes": p.n.Out.Load(), "bytes_per_second": int64(rate)}
		if eta >= 0 {
			e["eta_seconds"] = int64(eta.Seconds())
		}
		p.c.Say("progress", e, "")
		return
	}
	line := fmt.Sprintf("%s of %s (%.0f %%), %s/s, %.0f %% zero", Bytes(done), Bytes(total),
		Percent(done, total), Bytes(int64(rate)), Percent(zero, done))
	if out := p.n.Out.Load(); out > 0 { // there is none when a disk is converted
		line += ", " + Bytes(out) + " in the stream"
	}
	if eta >= 0 {
		line += ", " + Duration(eta) + " left"
	}
	if asked {
		p.c.mu.Lock()
		p.c.print("vmstream: " + line)
		p.c.mu.Unlock()
		return
	}
	p.c.status(line)
}
